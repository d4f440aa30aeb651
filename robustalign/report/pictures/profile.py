"""How strong a method is, and what that makes of it."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustalign.evaluation.metrics import Metric
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point
from robustalign.report.strength import Strength
from robustalign.report.style import COLOURS, colour, in_legend, legend_below, note, panels

SUMMARIES = ("worst", "nominal", "area")


def profiles(measures: Measures) -> dict[str, Figure]:
    """For each method with two values of its knob or more: worst case, nominal value and area against the knob.

    The knob is what the class of the method's ambiguity set declares. One figure a method and knob, as different knobs
    have different units. dpo is a band, where it was run.
    """
    figures = {}
    for method, points in measures.setting.families().items():
        by_knob: dict[str, list[Point]] = {}
        for point in points:
            if point.knob is not None and math.isfinite(point.knob.value):
                by_knob.setdefault(point.knob.axis, []).append(point)
        for axis, turned in by_knob.items():
            if len({_strength(point).value for point in turned}) > 1:
                name = method if len(by_knob) == 1 else f"{method} by {axis}"
                figures[name] = _profile(measures, turned)
    return figures


def _strength(point: Point) -> Strength:
    assert point.knob is not None
    return point.knob


def _profile(measures: Measures, points: list[Point]) -> Figure:
    metrics, first = measures.metrics(), _strength(points[0])
    summaries = SUMMARIES if len(measures.targets()) > 1 else ("nominal",)
    figure, rows = panels(len(metrics), len(summaries), height=2.1)
    for row, summary in zip(rows, summaries, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            _baseline(panel, measures, metric, summary)
            _points(panel, measures, metric, summary, points)
            _axis(panel, points)
            panel.set_ylabel(f"{summary} ({metric.unit})")
            panel.set_title(metric.title if row is rows[0] else "")
            panel.set_xlabel(first.axis if row is rows[-1] else "")
    note(figure, f"bars and bands: 95 % intervals over {measures.count()}, each by itself; stronger to the right")
    legend_below(figure)
    return figure


def _baseline(panel: Axes, measures: Measures, metric: Metric, summary: str) -> None:
    dpo = measures.setting.baseline
    values = measures.values(Policy(dpo.label), metric) if dpo is not None else None
    if dpo is not None and values is not None and values.has(summary):
        level = values.estimate(summary)
        panel.axhspan(level.low, level.high, color=COLOURS["dpo"], alpha=0.12, linewidth=0)
        panel.axhline(level.value, color=COLOURS["dpo"], linewidth=1.2, label=in_legend(dpo.label))


def _points(panel: Axes, measures: Measures, metric: Metric, summary: str, points: list[Point]) -> None:
    worth = []
    for point in points:
        values = measures.values(Policy(point.label), metric)
        if values is not None and values.has(summary):
            worth.append((_strength(point).value, values.estimate(summary)))
    if worth:
        knobs, estimates = zip(*worth, strict=True)
        arms = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
        method = points[0].method
        style: Any = {"color": colour(method), "marker": "o", "markersize": 4, "capsize": 2}
        panel.errorbar(knobs, [e.value for e in estimates], yerr=arms, **style, label=in_legend(method))


def _axis(panel: Axes, points: list[Point]) -> None:
    """The knob's values as ticks, on a logarithmic axis that also holds a value of 0; stronger to the right."""
    values = sorted({_strength(point).value for point in points})
    least = min(value for value in values if value > 0)
    if values[0] > 0:
        panel.set_xscale("log")
    else:
        panel.set_xscale("symlog", linthresh=least)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.minorticks_off()
    if _strength(points[0]).knob.stronger < 0:
        panel.invert_xaxis()
