"""The worst loss within a radius, and what targets at that radius really cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustalign.report.measures import Measures
from robustalign.report.settings import Point
from robustalign.report.style import COLOURS, Look, colour, legend_below, note, panels

RADII = {
    "kl": "KL radius (nats)",
    "chi_square": "chi-square radius",
    "tv": "total-variation radius (share)",
    "cvar": "CVaR: largest re-weighting",
}


def certificates(table: pd.DataFrame, measures: Measures, look: Look) -> Figure | None:
    """Above the certificate over the radius with its controls, below realised loss against the target's certificate."""
    sets = [name for name in RADII if (table["set"] == name).any()]
    if not sets:
        return None
    met = table["realised"].notna() & table["certificate"].notna()  # targets that re-weight the nominal pairs
    figure, rows = panels(len(sets), 2 if met.any() else 1, width=3.1, height=2.9)
    for column, name in enumerate(sets):
        mine = table[table["set"] == name]
        _curves(rows[0][column], mine[mine["target"] == ""], measures, look)
        rows[0][column].set_xlabel(RADII[name])
        if met.any():
            _realised(rows[1][column], mine[met.loc[mine.index]], measures, look)
    rows[0][0].set_ylabel("worst loss within the radius (nats)")
    rows[-1][0].set_ylabel("loss at the target (nats)" if met.any() else rows[0][0].get_ylabel())
    told = "; bars: across over seeds, up over seeds and prompts" if met.any() else ""
    note(figure, f"bands: 95 % intervals over {measures.count()}, {table['pairs'].max()} pairs{told}")
    legend_below(figure)
    return figure


def _shown(measures: Measures) -> list[Point]:
    """An oracle was trained for another population: its worst case around the nominal one says nothing."""
    return [point for point in measures.setting.points if not point.oracle] or measures.setting.points


def _curves(panel: Axes, mine: pd.DataFrame, measures: Measures, look: Look) -> None:
    for point in _shown(measures):
        curve = mine[(mine["label"] == point.label) & (mine["control"] == "policy")]
        if len(curve):
            style: Any = look.line(point) | look.marker(point) | {"markersize": 3.5, "linewidth": 1.3}
            panel.plot(curve["radius"], curve["certificate"], **style, label=point.label)
            edge: Any = {"color": colour(point.method), "alpha": 0.12, "linewidth": 0}
            panel.fill_between(curve["radius"], curve["certificate_low"], curve["certificate_high"], **edge)
    dpo = measures.setting.baseline or measures.setting.points[0]
    for control in sorted(set(mine["control"]) - {"policy"}):
        curve = mine[(mine["label"] == dpo.label) & (mine["control"] == control)]
        reference = control == "reference"
        style = {"color": COLOURS["reference" if reference else "dpo"], "linewidth": 1.2}
        label = "reference (ln 2)" if reference else f"dpo's margins x {control.removeprefix('shrink_')}"
        panel.plot(curve["radius"], curve["certificate"], ":" if reference else ".:", **style, label=label)
    panel.set_xscale("log")
    ticks = sorted(set(mine["radius"]))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()


def _realised(panel: Axes, mine: pd.DataFrame, measures: Measures, look: Look) -> None:
    for point in _shown(measures):
        found = mine[mine["label"] == point.label].sort_values("radius")
        if found.empty:
            continue
        x, y = found["certificate"], found["realised"]
        bars: Any = {
            name: np.nan_to_num(np.abs([value - found[f"{of}_low"], found[f"{of}_high"] - value]))
            for name, of, value in (("xerr", "certificate", x), ("yerr", "realised", y))
        }
        style: Any = {"linestyle": "", "markersize": 3.5, "elinewidth": 0.5, "alpha": 0.85, "label": point.label}
        panel.errorbar(x, y, **bars, **look.marker(point), **style)
    right, top = panel.get_xlim()[1], panel.get_ylim()[1]
    panel.axline((0, 0), slope=1, color="#707070", linewidth=0.9, linestyle=(0, (5, 2)), label="as certified")
    panel.set(xlim=(0, right), ylim=(0, top))
    panel.set_xlabel("certificate at the target's radius (nats)")
