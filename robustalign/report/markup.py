"""Names as text, whatever they contain: in markdown, html, LaTeX and file names.

Labels, targets and experiments are named by people. What a format reads as markup is escaped here, and only here;
pictures need no escaping, as they are drawn without mathematics (:data:`robustalign.report.style.SETTINGS`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import pandas as pd

SPECIAL = re.compile(r"[\\`*<|~$&]|(?<!\w)_|_(?!\w)|(?<=\])\(")  # what would not stand for itself in markdown
ESCAPED = re.compile(r"\\([\\`*<|~$&_(])")
BOLD = re.compile(r"(\*\*(?:\\.|[^\\*])+\*\*)")
INTERVAL = re.compile(r"[-+]?[0-9][^\[]* \[.*\]")
LATEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
} | {character: f"\\{character}" for character in "{}$&#_%"}


def in_markdown(text: str) -> str:
    """Text that markdown shows as it is, on one line."""
    return SPECIAL.sub(lambda match: f"\\{match.group()}", " ".join(text.split()))


def in_latex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(LATEX.get(character, character) for character in text)


def in_file_names(names: Sequence[str]) -> list[str]:
    """A part of a file name for each name: letters, digits and ``.=+-``, different for different names."""
    parts: list[str] = []
    for name in names:
        part = re.sub(r"[^\w.=+-]", "_", name).lstrip(".") or "_"
        number, free = 2, part
        while free.casefold() in {other.casefold() for other in parts}:
            free, number = f"{part}-{number}", number + 1
        parts.append(free)
    return parts


def plain(markdown: str) -> str:
    """A report's markdown for a terminal."""
    return "\n".join("".join(text for text, _ in _spans(line)) for line in markdown.split("\n"))


def html_of(markdown: str) -> str:
    """Markdown of paragraphs, lists and bold words as html."""
    blocks, items = [], []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("- "):
            items.append(f"<li>{_html_line(line[2:])}</li>")
            continue
        if items:
            blocks.append(f"<ul>{''.join(items)}</ul>")
            items = []
        if line:
            blocks.append(f"<p>{_html_line(line)}</p>")
    return "\n".join(blocks)


def _html_line(line: str) -> str:
    spans = ((html.escape(text), bold) for text, bold in _spans(line))
    return "".join(f"<b>{text}</b>" if bold else text for text, bold in spans)


def _spans(line: str) -> list[tuple[str, bool]]:
    """The pieces of a line of markdown as plain text, and whether each is bold."""
    pieces = [piece for piece in BOLD.split(line) if piece]
    marked = [(piece[2:-2], True) if BOLD.fullmatch(piece) else (piece, False) for piece in pieces]
    return [(ESCAPED.sub(r"\1", text), bold) for text, bold in marked]


def markdown_table(table: pd.DataFrame) -> str:
    """A table of text in markdown."""
    escaped = table.map(lambda value: in_markdown(str(value))).rename(columns=in_markdown)
    return str(escaped.to_markdown(index=False, disable_numparse=True))


def latex_table(table: pd.DataFrame, caption: str) -> str:
    """A table of text for the booktabs package; intervals are set small."""

    def cell(value: object) -> str:
        text = str(value)
        escaped = in_latex(text)
        return escaped.replace(" [", r" {\scriptsize [") + "}" if INTERVAL.fullmatch(text) else escaped

    head = " & ".join(cell(name) for name in table.columns) + r" \\"
    body = [" & ".join(cell(value) for value in row) + r" \\" for row in table.itertuples(index=False)]
    lines = [r"\begin{tabular}{l" + "c" * (len(table.columns) - 1) + "}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([f"% {' '.join(caption.split())}", *lines, r"\bottomrule", r"\end{tabular}", ""])
