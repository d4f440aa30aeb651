"""How pictures look: a colour a method that never changes, and labels with units."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font, get_font_names
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from robustalign.report.settings import Point, Setting

# Okabe and Ito's palette: told apart with any common colour blindness
COLOURS = {
    "dpo": "#3c3c3c",
    "kldpo": "#0072b2",
    "wdpo": "#d55e00",
    "drdpo": "#cc79a7",
    "overlooked": "#882255",
    "oracle": "#009e73",
    "reference": "#8c8c8c",
    "cvar": "#e69f00",
    "dpo_pro": "#332288",
    "group_robust": "#117733",
    "own_pairs": "#56b4e9",
}
SPARE = ("#999933", "#aa4499", "#661100", "#44aa99", "#ddaa33")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (8, 2)))
FALLBACKS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei")
MARKERS = "osD^vPX*"
SETTINGS: Any = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "axes.titlesize": 9.5,
    "svg.hashsalt": "robustalign",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a label is a dollar
}
COORDINATE = "distance of the target from\nthe nominal population (total variation)"


def colour(method: str) -> str:
    """The colour of a method, the same in every report."""
    return COLOURS.get(method) or SPARE[zlib.crc32(method.encode()) % len(SPARE)]


class Look:
    """Colour, line and marker of each point: the colour is the method's, the rest tells its points apart."""

    def __init__(self, setting: Setting) -> None:
        self._rank: dict[str, int] = {}
        count: dict[str, int] = {}
        for point in setting.points:
            self._rank[point.label] = count.get(point.method, 0)
            count[point.method] = self._rank[point.label] + 1

    def line(self, point: Point) -> dict[str, Any]:
        """Colour, line and label for ``plot``."""
        return self._of(point) | {"linestyle": LINES[self._rank[point.label] % len(LINES)]}

    def marker(self, point: Point) -> dict[str, Any]:
        """Colour, marker and label for ``errorbar``."""
        return self._of(point) | {"marker": MARKERS[self._rank[point.label] % len(MARKERS)]}

    def _of(self, point: Point) -> dict[str, Any]:
        return {"color": colour(point.method), "label": in_legend(point.label)}


@contextmanager
def drawing() -> Iterator[None]:
    """The settings under which all pictures are drawn and saved."""
    with rc_context(SETTINGS | {"font.family": fonts()}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # see `undrawable`
        yield


@cache
def fonts() -> list[str]:
    """The fonts of pictures: the first that has a character draws it."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in installed)]


def undrawable(text: str) -> str:
    """The characters of a text that no font of pictures has; they are boxes in .png files."""
    faces = [get_font(findfont(name)) for name in fonts()]
    lacking = (c for c in dict.fromkeys(text) if c.isprintable() and not any(f.get_char_index(ord(c)) for f in faces))
    return "".join(lacking)


def signed_map(panel: Axes, values: np.ndarray, bound: float, unsure: np.ndarray) -> AxesImage:
    """``values [R, C]`` as colours from ``-bound`` to ``bound``, hatched where ``unsure [R, C]``."""
    image = panel.imshow(values, cmap="PuOr_r", vmin=-bound, vmax=bound, aspect="auto")
    for row, column in np.argwhere(unsure):
        edges = [column - 0.5, column + 0.5], row - 0.5, row + 0.5
        panel.fill_between(*edges, hatch="////", facecolor="none", edgecolor="#a0a0a0", linewidth=0)
    panel.grid(False)
    return image


def panels(columns: int, rows: int = 1, width: float = 3.6, height: float = 3.0) -> tuple[Figure, list[list[Axes]]]:
    """A figure and its panels, row by row."""
    figure = Figure(figsize=(max(width * columns, 4.6), height * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, [list(row) for row in figure.subplots(rows, columns, squeeze=False)]


def plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as numbers such as 0.01; the default writes mathematics."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def in_legend(label: str) -> str:
    """A label that matplotlib keeps in legends: it hides those that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def legend_below(figure: Figure) -> None:
    """One legend for all panels, each entry once."""
    entries: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        columns = max(2, min(len(entries), int(figure.get_figwidth() / 2.1)))
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=columns)


def note(figure: Figure, text: str) -> None:
    """A line above the panels: what the bars and bands are, and n."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=8.5, color="#505050")


def save(figure: Figure, folder: Path, name: str) -> Path:
    """The picture as png and svg. Returns the png."""
    path, buffer = folder / f"{name}.png", BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    figure.set_layout_engine("none")  # it is laid out by now
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path
