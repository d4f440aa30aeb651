"""Policies over populations: curves, heat-map, radar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustalign.evaluation.controls import REFERENCE
from robustalign.evaluation.metrics import Metric
from robustalign.report.compare import Comparison
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate
from robustalign.report.style import COLOURS, COORDINATE, Look, colour, legend_below, note, panels, signed_map


def robustness_curves(measures: Measures, comparison: Comparison | None, look: Look) -> Figure | None:
    """Each metric against the target's distance from the nominal, and below it the paired difference to dpo."""
    shift, metrics = measures.setting.shift, measures.metrics()
    targets = sorted(shift.names, key=shift.coordinate)
    where = [shift.coordinate(target) for target in targets]
    if len(set(where)) < 2:
        return None
    figure, rows = panels(len(metrics), 1 if comparison is None else 2)
    bands = "bands" if _on_a_line(where) else "bars"
    for column, metric in enumerate(metrics):
        panel = rows[0][column]
        _bands(panel, measures.setting.points, where, look, _values(measures, metric, targets))
        _reference(panel, measures, metric, targets, where)
        panel.set_title(metric.title)
        panel.set_ylabel(f"{metric} ({metric.unit})")
        if comparison is not None:
            lower = rows[1][column]
            points = [point for point in comparison.setting.others if not point.oracle]
            _bands(lower, points, where, look, _differences(comparison, metric, targets))
            lower.axhline(0, color=COLOURS["dpo"], linewidth=1.2)
            lower.set_ylabel(f"{metric} minus dpo's ({metric.unit})")
            lower.set_title(metric.direction)
        for panel in (row[column] for row in rows):
            panel.axvline(0.0, color="#b0b0b0", linewidth=0.8)
        rows[-1][column].set_xlabel(COORDINATE)
    rows[0][0].annotate(
        "nominal", (0.0, 0.5), xycoords=("data", "axes fraction"), xytext=(2, 0), textcoords="offset points",
        rotation=90, va="center", fontsize=7.5, color="#707070",
    )  # fmt: skip
    note(figure, f"{bands}: 95 % intervals over {measures.count()}" + (", paired below" if comparison else ""))
    legend_below(figure)
    return figure


def _on_a_line(where: Sequence[float]) -> bool:
    """Whether no two targets lie at the same distance, in different directions."""
    return len({round(distance, 6) for distance in where}) == len(where)


Estimates = Callable[[Point], Sequence[Estimate] | None]


def _bands(panel: Axes, points: Sequence[Point], where: Sequence[float], look: Look, estimates: Estimates) -> None:
    for point in points:
        if of_targets := estimates(point):
            middle, low, high = ([getattr(e, part) for e in of_targets] for part in ("value", "low", "high"))
            if _on_a_line(where):
                panel.plot(where, middle, **look.line(point), linewidth=1.6)
                panel.fill_between(where, low, high, color=colour(point.method), alpha=0.13, linewidth=0)
            else:
                arms = [np.subtract(middle, low), np.subtract(high, middle)]
                style: Any = look.marker(point) | {"linestyle": "", "markersize": 4, "elinewidth": 0.8}
                panel.errorbar(where, middle, yerr=arms, **style)


def _values(measures: Measures, metric: Metric, targets: Sequence[str]) -> Estimates:
    def of_point(point: Point) -> Sequence[Estimate] | None:
        values = measures.values(Policy(point.label), metric)
        return None if values is None else [values.estimate(target) for target in targets]

    return of_point


def _differences(comparison: Comparison, metric: Metric, targets: Sequence[str]) -> Estimates:
    dpo = Policy(comparison.dpo.label)

    def of_point(point: Point) -> Sequence[Estimate] | None:
        differences = [comparison.difference(Policy(point.label), dpo, metric, target) for target in targets]
        return [e for e in differences if e is not None] if None not in differences else None

    return of_point


def _reference(panel: Axes, measures: Measures, metric: Metric, targets: Sequence[str], where: Sequence[float]) -> None:
    dpo = measures.setting.baseline or measures.setting.points[0]
    values = measures.values(Policy(dpo.label, REFERENCE), metric)
    if values is not None:
        level = [values.mean(target) for target in targets]
        panel.plot(where, level, color=COLOURS["reference"], linestyle=":", linewidth=1.2, label="reference")


def heat_map(comparison: Comparison) -> Figure | None:
    """How much better than dpo each point is at each target; hatched where the interval includes zero."""
    measures, shift = comparison.measures, comparison.setting.shift
    metrics, points = measures.metrics(), comparison.setting.others
    targets = sorted(shift.names, key=shift.coordinate)
    if len(targets) < 2 or not points:
        return None
    figure, (axes,) = panels(len(metrics), width=0.36 * len(targets) + 1.9, height=max(1.2 + 0.26 * len(points), 2.0))
    dpo = Policy(comparison.dpo.label)
    for panel, metric in zip(axes, metrics, strict=True):
        gains = [
            [comparison.difference(Policy(point.label), dpo, metric, t) or Estimate.missing() for t in targets]
            for point in points
        ]
        values = metric.better * np.array([[e.value for e in row] for row in gains])
        fair = [row for row, point in zip(np.abs(values), points, strict=True) if not point.oracle] or np.abs(values)
        bound = float(np.max(np.nan_to_num(fair))) or 1.0
        unsure = np.array([[e.known and e.sign == 0 for e in line] for line in gains])
        image = signed_map(panel, values, bound, unsure)
        panel.set_xticks(range(len(targets)), targets, rotation=60, ha="right", rotation_mode="anchor")
        panel.set_yticks(range(len(points)), [point.label for point in points] if panel is axes[0] else [])
        panel.set_xlabel("evaluated at")
        panel.set_title(metric.title)
        extend = "both" if (np.abs(values) > bound).any() else "neither"
        figure.colorbar(image, ax=panel, label=f"gain over dpo ({metric.unit})", extend=extend)
    axes[0].set_ylabel("trained as")
    note(figure, f"hatched: the paired 95 % interval over {measures.count()} includes zero")
    return figure


def radar(measures: Measures, look: Look) -> Figure | None:
    """Every metric with a spoke for each objective's own people; None with fewer than three of them."""
    shift, metrics = measures.setting.shift, measures.metrics()
    spokes = [name for name in shift.names if shift.pure(name)]
    if len(spokes) < 3 or not metrics:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(4.2 * len(metrics), 4.9), layout="constrained")
    FigureCanvasAgg(figure)
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    for column, metric in enumerate(metrics):
        panel = figure.add_subplot(1, len(metrics), column + 1, projection="polar")
        for point in measures.setting.points:
            if values := measures.values(Policy(point.label), metric):
                of_spokes = [values.estimate(target) for target in spokes]
                middle, low, high = ([getattr(e, part) for e in of_spokes] for part in ("value", "low", "high"))
                panel.plot([*angles, angles[0]], [*middle, middle[0]], **look.line(point))
                arms = [np.subtract(middle, low), np.subtract(high, middle)]
                panel.errorbar(angles, middle, yerr=arms, linestyle="", color=colour(point.method), linewidth=0.8)
        panel.set_xticks(angles, spokes)
        panel.tick_params(axis="y", labelsize=7)
        less = ", less is better" if metric.better < 0 else ""
        panel.set_title(f"{metric.title} ({metric.unit}{less})")
    note(figure, f"bars: 95 % intervals over {measures.count()}")
    legend_below(figure)
    return figure
