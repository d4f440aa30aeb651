"""Names with characters that mean something to markdown, html, LaTeX, pictures or file systems."""

from __future__ import annotations

import html as standard
import io
import re

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robustalign.report import markup, style
from robustalign.report.style import drawing, in_legend, legend_below

NAMES = [
    "cheap $$",
    "$x_1$ & $\\alpha$",
    "a & b < c > d",
    "50 % # _under_ ^hat ~tilde~ {brace} \\back\\slash",
    "a|b",
    "**bold** *it* `code`",
    "[link](http://x)",
    "<script>alert(1)</script>",
    "&lt; &amp; entity",
    "joy_1.0",
    "快乐 ü é → 🙂",
    "kl [0.1, 0.2]",
    "\"quoted\" 'single'",
]
ESCAPES = {"\\textbackslash{}": "\\", "\\textasciicircum{}": "^", "\\textasciitilde{}": "~", "\\textless{}": "<"}
ESCAPES |= {"\\textgreater{}": ">", "\\textbar{}": "|"} | {f"\\{c}": c for c in "{}$&#_%"}


def typeset(latex: str) -> str:
    """What LaTeX would print; fails on a character that is special and not escaped."""
    pieces = re.split("|".join(map(re.escape, sorted(ESCAPES, key=len, reverse=True))), latex)
    assert not any(set(piece) & set("\\{}$&#_%^~") for piece in pieces), latex
    return re.sub("|".join(map(re.escape, sorted(ESCAPES, key=len, reverse=True))), lambda m: ESCAPES[m.group()], latex)


@pytest.mark.parametrize("name", NAMES)
def test_latex_prints_the_name(name) -> None:
    assert typeset(markup.in_latex(name)) == name


@pytest.mark.parametrize("name", NAMES)
def test_markdown_is_read_back_as_the_name(name) -> None:
    line = f"- **{markup.in_markdown(name)}**: worst case {markup.in_markdown(name)}"
    assert markup.plain(line) == f"- {name}: worst case {name}"
    (item,) = re.findall(r"<li>(.*)</li>", markup.html_of(line))
    assert item == f"<b>{standard.escape(name)}</b>: worst case {standard.escape(name)}"


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_of_a_markdown_table_stays_one_cell(name) -> None:
    table = markup.markdown_table(pd.DataFrame({"point": [name], name: ["0.5 [0.4, 0.6]"]}))
    for line in table.splitlines():
        assert len(re.findall(r"(?<!\\)\|", line)) == 3
    assert name in markup.plain(table.splitlines()[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_of_a_latex_table_stays_one_cell(name) -> None:
    table = markup.latex_table(pd.DataFrame({"point": [name], "worst": ["0.512 [0.480, 0.544]"]}), f"about {name}\n")
    (row,) = [line for line in table.splitlines() if "0.512" in line]
    first, second = re.split(r"(?<!\\) & ", row.removesuffix(r" \\"))
    assert typeset(first) == name
    assert second == r"0.512 {\scriptsize [0.480, 0.544]}"


def test_known_names_need_no_escapes() -> None:
    for name in ("kldpo tau=0.5", "joy_1.0", "neglected_minority", "0.512 [0.480, 0.544]", "95 %", "dpo lr=5e-4"):
        assert markup.in_markdown(name) == name


@pytest.mark.parametrize("name", [*NAMES, "_hidden", "a$b", "\\$5"])
def test_pictures_show_the_name(name) -> None:
    """As it is: neither read as mathematics nor left out of the legend."""
    figure = Figure()
    FigureCanvasAgg(figure)
    with drawing():
        panel = figure.subplots()
        panel.plot([0, 1], [0, 1], label=in_legend(name))
        panel.set_yticks([0], [name])
        legend_below(figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg")
    texts = [standard.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", drawn.getvalue().decode())]
    assert sum(text.strip() == name for text in texts) == 2


def test_file_names_are_distinct_and_stay_in_their_folder() -> None:
    names = ["a b", "a_b", "a/b", "A_B", "..", "", "快乐", "悲伤", "kldpo"]
    parts = markup.in_file_names(names)
    assert len({part.casefold() for part in parts}) == len(names)
    assert all(part and "/" not in part and not part.startswith(".") for part in parts)
    assert parts[-3:] == ["快乐", "悲伤", "kldpo"]


def test_characters_without_a_font_are_named(monkeypatch) -> None:
    monkeypatch.setattr(style, "fonts", lambda: ["DejaVu Sans"])
    assert style.undrawable("kldpo τ=0.5 → é") == ""
    assert style.undrawable("快 a 乐快") == "快乐"
