"""How a method's radius, or its temperature, sets what it is worth."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point
from robustalign.report.style import COLOURS, colour, in_legend, legend_below, note, panels

SUMMARIES = ("worst", "nominal", "area")


def profiles(measures: Measures) -> dict[str, Figure]:
    """For each method with two values or more: worst case, nominal value and area against its own knob.

    One figure a method, as radii of different sets have different units. dpo is a band, where it was run.
    """
    families = measures.setting.families()
    drawn = {name: _profile(measures, points) for name, points in families.items() if len(points) > 1}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _profile(measures: Measures, points: list[Point]) -> Figure | None:
    metrics, baseline = measures.metrics(), measures.setting.baseline
    radii = all(point.radius is not None for point in points)
    found = [point.radius if radii else point.temperature for point in points]
    knobs = [knob for knob in found if knob is not None]
    if len(knobs) < len(points) or len(set(knobs)) < 2:
        return None
    figure, rows = panels(len(metrics), len(SUMMARIES), height=2.1)
    for row, summary in zip(rows, SUMMARIES, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            dpo = measures.values(Policy(baseline.label), metric) if baseline else None
            if baseline is not None and dpo is not None and dpo.has(summary):
                level = dpo.estimate(summary)
                panel.axhspan(level.low, level.high, color=COLOURS["dpo"], alpha=0.12, linewidth=0)
                panel.axhline(level.value, color=COLOURS["dpo"], linewidth=1.2, label=in_legend(baseline.label))
            worth = [
                values.estimate(summary)
                for p in points
                if (values := measures.values(Policy(p.label), metric)) and values.has(summary)
            ]
            if len(worth) == len(points):
                arms = [[e.value - e.low for e in worth], [e.high - e.value for e in worth]]
                method = points[0].method
                style: Any = {"color": colour(method), "marker": "o", "markersize": 4, "capsize": 2}
                panel.errorbar(knobs, [e.value for e in worth], yerr=arms, **style, label=in_legend(method))
            panel.set_xscale("log")
            panel.set_xticks(knobs, [f"{knob:g}" for knob in knobs])
            panel.minorticks_off()
            if not radii:
                panel.invert_xaxis()
            panel.set_ylabel(f"{summary} ({metric.unit})")
            panel.set_title(metric.title if row is rows[0] else "")
            panel.set_xlabel(_unit(points[0], radii) if row is rows[-1] else "")
    note(figure, f"bars and bands: 95 % intervals over {measures.count()}, each by itself; stronger to the right")
    legend_below(figure)
    return figure


def _unit(point: Point, radii: bool) -> str:
    method = point.config["method"]
    if not radii:
        return "temperature (nats of loss)"
    if method.get("set") == "wasserstein":
        unit = method.get("radius_unit", "relative")
        return "radius (displacement / embedding norm)" if unit == "relative" else "radius (absolute)"
    return "radius (nats)" if method.get("set") == "kl" else f"radius ({method.get('set')})"
