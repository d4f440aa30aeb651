"""One html file that holds a whole report and needs no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from robustalign.report.markup import html_of

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tbody tr:hover { background: #f4f7fa; }
figure { margin: 1rem 0; } img { max-width: 100%; } figcaption, .caption { color: #555; font-size: 13px; }
"""


@dataclass(frozen=True)
class Part:
    """A section: a heading, a caption, and a table or a picture."""

    heading: str
    caption: str
    table: pd.DataFrame | None = None
    picture: Path | None = None


def page(title: str, summary: str, details: str, parts: Sequence[Part]) -> str:
    """The report as html; ``summary`` and ``details`` are markdown of paragraphs, lists and bold words."""
    body = "\n".join(_part(part) for part in parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n{html_of(summary)}\n{body}\n"
        f"<h2>Every comparison</h2>\n{html_of(details)}\n</body></html>\n"
    )


def _part(part: Part) -> str:
    heading, caption = html.escape(part.heading), html.escape(part.caption)
    if part.picture is not None:
        data = base64.b64encode(part.picture.read_bytes()).decode()
        image = f'<img alt="{heading}" src="data:image/png;base64,{data}">'
        return f"<h2>{heading}</h2><figure>{image}<figcaption>{caption}</figcaption></figure>"
    assert part.table is not None
    table = part.table.to_html(index=False, border=0, na_rep="-", float_format=lambda v: f"{v:.3g}")
    return f'<h2>{heading}</h2><p class="caption">{caption}</p>{table}'
