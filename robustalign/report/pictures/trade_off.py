"""The plane of nominal value (or KL) and worst case, where robust methods must lie beyond the controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robustalign.evaluation.metrics import WHOLE, Metric
from robustalign.report.claims import Claim
from robustalign.report.compare import KL, Comparison
from robustalign.report.measures import Policy
from robustalign.report.statistics import Estimate
from robustalign.report.style import COLOURS, Look, in_legend, legend_below, note, panels

Place = Callable[[Policy], "tuple[Estimate, Estimate] | None"]


def trade_off(comparison: Comparison, look: Look, at: str = "nominal") -> Figure | None:
    """The worst case against the nominal value, or with ``at="kl"`` against the KL from the reference.

    Above the whole plane; below what lies around dpo, as paired differences to it.
    """
    measures, dpo = comparison.measures, Policy(comparison.dpo.label)
    metrics = measures.metrics()
    if len(measures.targets()) < 2 or (at == "kl" and comparison.values(dpo, KL) is None):
        return None
    figure, (above, below) = panels(len(metrics), 2)
    for whole, near, metric in zip(above, below, metrics, strict=True):
        for panel, place in ((whole, _absolute(comparison, metric, at)), (near, _relative(comparison, metric, at))):
            _controls(panel, comparison, place)
            _points(panel, comparison, look, place, oracle=panel is whole)
            if at == "nominal":
                _front(panel, comparison, place, metric.better)
        _zoom(near, comparison, _relative(comparison, metric, at))
        for panel in (whole, near):
            _name_axes(panel, metric, at, " minus dpo's" if panel is near else "")
    note(figure, f"bars: 95 % intervals over {measures.count()}, paired below")
    legend_below(figure)
    return figure


def _absolute(comparison: Comparison, metric: Metric, at: str) -> Place:
    def place(policy: Policy) -> tuple[Estimate, Estimate] | None:
        y, x = comparison.values(policy, metric), comparison.values(policy, KL if at == "kl" else metric)
        return (x.estimate(WHOLE if at == "kl" else "nominal"), y.estimate("worst")) if x and y else None

    return place


def _relative(comparison: Comparison, metric: Metric, at: str) -> Place:
    dpo = Policy(comparison.dpo.label)

    def place(policy: Policy) -> tuple[Estimate, Estimate] | None:
        y = comparison.difference(policy, dpo, metric, "worst")
        x = comparison.difference(policy, dpo, KL if at == "kl" else metric, WHOLE if at == "kl" else "nominal")
        return (x, y) if x and y else None

    return place


def _points(panel: Axes, comparison: Comparison, look: Look, place: Place, oracle: bool) -> None:
    for point in comparison.setting.points:
        where = place(Policy(point.label))
        if where is None or (point.oracle and not oracle):
            continue
        x, y = where
        bars: Any = {"xerr": _arms(x), "yerr": _arms(y)}
        panel.errorbar(
            [x.value], [y.value], **bars, **look.marker(point), markersize=5.5, linewidth=0.9, linestyle="", zorder=4
        )
    for x, y in filter(None, map(place, comparison.reference())):
        panel.plot([x.value], [y.value], "x", color=COLOURS["reference"], label="reference", markersize=7, zorder=5)


def _arms(e: Estimate) -> list[list[float]]:
    return [[max(e.value - e.low, 0.0)], [max(e.high - e.value, 0.0)]]


def _controls(panel: Axes, comparison: Comparison, place: Place) -> None:
    curves = [(f"{comparison.dpo.label}'s margins x c", "-", comparison.shrinkage())]
    for line, curve in zip(("--", ":", "-.") * 3, comparison.step_curves(), strict=False):
        curves.append((f"{curve[-1].point} along its steps", line, curve))
    for label, line, curve in curves:
        places = list(filter(None, map(place, curve)))
        if len(places) > 1:
            x, y = ([pair[axis].value for pair in places] for axis in (0, 1))
            panel.plot(
                x, y, line, color=COLOURS["dpo"], linewidth=1.1, marker=".", markersize=3.5, label=in_legend(label)
            )


def _front(panel: Axes, comparison: Comparison, place: Place, sign: int) -> None:
    """What no other point that knows no target beats on both axes."""
    policies = [Policy(point.label) for point in comparison.setting.points if not point.oracle]
    places = [(sign * x.value, sign * y.value) for x, y in filter(None, map(place, policies)) if x.known and y.known]
    best: list[tuple[float, float]] = []
    for x, y in sorted(places, reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    if best:
        xs, ys = (sign * np.array(axis) for axis in zip(*best, strict=True))
        style: Any = {"color": "#56b4e9", "linewidth": 4, "marker": "o", "markersize": 11, "alpha": 0.4, "zorder": 1}
        panel.step(xs, ys, where="post", label="Pareto front", **style)


def _zoom(panel: Axes, comparison: Comparison, place: Place) -> None:
    """Limits around the points that know no target, and dpo."""
    policies = [Policy(point.label) for point in comparison.setting.points if not point.oracle]
    places = [(x, y) for x, y in filter(None, map(place, policies)) if x.known and y.known]
    for axis, limit in ((0, panel.set_xlim), (1, panel.set_ylim)):
        ends = [end for pair in places for end in (pair[axis].low, pair[axis].high)]
        if ends:
            room = 0.12 * (max(ends) - min(ends)) or 0.1
            limit(min(ends) - room, max(ends) + room)


def _name_axes(panel: Axes, metric: Metric, at: str, what: str) -> None:
    if metric.better < 0:
        panel.invert_yaxis()
        if at == "nominal":
            panel.invert_xaxis()
    across, unit = ("nominal", metric.unit) if at == "nominal" else ("KL from the reference", KL.unit)
    if at == "kl" and what:
        across = "KL"  # the whole would not fit below a panel
    panel.set_xlabel(f"{across}{what} ({unit})")
    panel.set_ylabel(f"worst case{what} ({metric.unit})")
    panel.set_title("up" + (" and right are" if at == "nominal" else " is") + " better" if what else metric.title)


def gap_closed(claims: Sequence[Claim], comparison: Comparison, look: Look) -> Figure | None:
    """The share of the distance from dpo to the oracle at dpo's worst target."""
    clear = [claim for claim in claims if claim.gap_closed and not comparison.setting.point(claim.label).oracle]
    metrics = [metric for metric in comparison.measures.metrics() if any(c.metric == metric for c in clear)]
    labels = list(dict.fromkeys(claim.label for claim in clear))[::-1]
    if not clear:
        return None
    figure, (axes,) = panels(len(metrics), height=1.0 + 0.28 * len(labels))
    for panel, metric in zip(axes, metrics, strict=True):
        for claim in clear:
            e = claim.gap_closed
            if claim.metric == metric and e is not None:
                style = look.marker(comparison.setting.point(claim.label))
                arms = [[100 * arm for arm in side] for side in _arms(e)]
                panel.errorbar([100 * e.value], [labels.index(claim.label)], xerr=arms, linestyle="", **style)
        panel.set_yticks(range(len(labels)), labels if panel is axes[0] else [])
        panel.set_ylim(-0.6, len(labels) - 0.4)
        panel.axvline(0, color=COLOURS["dpo"], linewidth=1)
        panel.axvline(100, color=COLOURS["oracle"], linewidth=1)
        panel.set_xlabel("way from dpo (0) to the oracle (100), %")
        panel.set_title(f"{metric} at {comparison.worst_target(metric)}")
    note(figure, f"bars: paired 95 % intervals over {comparison.measures.count()}")
    return figure
