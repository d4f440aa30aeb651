"""The worst loss within a radius, and how far above the loss at a target the certificate lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustalign.evaluation.certificates import BALLS
from robustalign.evaluation.controls import REFERENCE, TRAINED, read_control
from robustalign.report.certify import curve_name
from robustalign.report.measures import Measures
from robustalign.report.settings import Point
from robustalign.report.style import COLOURS, Look, colour, in_legend, legend_below, note, panels


def certificates(table: pd.DataFrame, measures: Measures, look: Look) -> Figure | None:
    """Above the certificate over the radius with its controls, below how far it exceeds the loss at each target."""
    sets = [name for name in BALLS if (table["set"] == name).any()]
    if not sets:
        return None
    at_target = table["slack"].notna()  # targets that re-weight the nominal pairs
    figure, rows = panels(len(sets), 2 if at_target.any() else 1, width=3.4, height=2.9)
    for column, name in enumerate(sets):
        of_set = table[table["set"] == name]
        _curves(rows[0][column], of_set[of_set["target"] == ""], measures, look)
        rows[0][column].set_xlabel(_radius(name))
        if at_target.any():
            _slack(rows[1][column], of_set[at_target.loc[of_set.index]], measures, look)
            rows[1][column].set_xlabel(f"distance of the target\n({BALLS[name].unit})")
    rows[0][0].set_ylabel("worst loss within the radius\n(nats)")
    if at_target.any():
        rows[1][0].set_ylabel("certificate minus loss\nat the target (nats)")
    below = "; below: over seeds" if at_target.any() else ""
    note(figure, f"95 % intervals over {measures.count()}, {table['pairs'].max()} pairs{below}")
    legend_below(figure)
    return figure


def _radius(name: str) -> str:
    return f"{name.replace('_', ' ')} radius\n({BALLS[name].unit})"


def _shown(measures: Measures) -> list[Point]:
    """All but oracles: their worst case around a population that they were not trained for says nothing."""
    return [point for point in measures.setting.points if not point.oracle] or measures.setting.points


def _curves(panel: Axes, table: pd.DataFrame, measures: Measures, look: Look) -> None:
    for point in _shown(measures):
        curve = table[(table["label"] == point.label) & (table["control"] == str(TRAINED))]
        if len(curve):
            panel.plot(curve["radius"], curve["certificate"], **_style(look, point))
            edge: Any = {"color": colour(point.method), "alpha": 0.12, "linewidth": 0}
            panel.fill_between(curve["radius"], curve["certificate_low"], curve["certificate_high"], **edge)
    for (label, control), curve in table[table["control"] != str(TRAINED)].groupby(["label", "control"], sort=True):
        name = curve_name(label, control, measures.setting)
        if name is not None:
            reference = read_control(control) == REFERENCE
            style: Any = {"color": COLOURS["reference" if reference else "dpo"], "label": in_legend(name)}
            panel.plot(curve["radius"], curve["certificate"], ":" if reference else ".:", linewidth=1.2, **style)
    panel.set_ylim(bottom=0)
    panel.set_xscale("log")
    ticks = sorted(set(table["radius"]))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()


def _slack(panel: Axes, table: pd.DataFrame, measures: Measures, look: Look) -> None:
    for point in _shown(measures):
        curve = table[table["label"] == point.label].sort_values("radius")
        if len(curve):
            panel.plot(curve["radius"], curve["slack"], **_style(look, point))
            edge: Any = {"color": colour(point.method), "alpha": 0.12, "linewidth": 0}
            panel.fill_between(curve["radius"], curve["slack_low"], curve["slack_high"], **edge)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)


def _style(look: Look, point: Point) -> Mapping[str, Any]:
    return look.line(point) | look.marker(point) | {"markersize": 3.5, "linewidth": 1.3}
