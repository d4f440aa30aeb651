"""The tables of a report: long ones for machines, short ones for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustalign.evaluation.metrics import WHOLE, Metric
from robustalign.report import statistics
from robustalign.report.claims import ESTIMATES, KINDS, Claim, correct
from robustalign.report.compare import KL, Comparison
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate
from robustalign.report.strength import columns_of

LAST = ("KL, nats", "n")  # columns of a short table


def results(measures: Measures, comparison: Comparison | None, splits: Sequence[str]) -> pd.DataFrame:
    """Every policy at every target: value, paired difference to dpo, both with intervals, and n."""
    rows = []
    for point in measures.setting.points:
        for control in measures.controls(point.label):
            policy = Policy(point.label, control)
            for split in splits:
                for metric in measures.every_metric(split):
                    rows += _rows(measures, comparison, policy, split, metric)
    return pd.DataFrame(rows)


def _rows(
    measures: Measures, comparison: Comparison | None, policy: Policy, split: str, metric: Metric
) -> list[dict[str, Any]]:
    values = measures.values(policy, metric, split)
    if values is None:
        return []
    point, rows = measures.setting.point(policy.point), []
    shift = measures.setting.shift
    for target in values.targets:
        coordinate = shift.coordinate(target) if target in shift.names else 0.0 if target == "nominal" else math.nan
        row: dict[str, Any] = {"label": point.label, "method": point.method, **columns_of(point.config["method"])}
        row |= {"control": str(policy.control), "step": policy.control.step_of(point.last_step)}
        row |= {"split": split, "metric": metric.name, "target": target, "coordinate": coordinate}
        row |= values.estimate(target).columns()
        if comparison is not None:
            difference = comparison.difference(policy, Policy(comparison.dpo.label), metric, target, split)
            row |= (difference or Estimate.missing()).columns("difference")
        rows.append(row | {"seeds": len(values.seeds), "prompts": values.prompts})
    return rows


def claims_of(comparison: Comparison) -> list[Claim]:
    """What can be said of each point but dpo, metric by metric; verdicts of the methods under test are corrected."""
    metrics, tested = comparison.measures.metrics(), {point.label for point in comparison.setting.robust}
    claims = [comparison.claim(point, metric) for point in comparison.setting.others for metric in metrics]
    corrected = iter(correct([claim for claim in claims if claim.label in tested]))
    return [next(corrected) if claim.label in tested else claim for claim in claims]


def claims_table(claims: Sequence[Claim]) -> pd.DataFrame:
    """The claims, one row each: every comparison, its p-values before and after correction, and what is missing."""
    rows = []
    for claim in claims:
        row: dict[str, Any] = {"label": claim.label, "metric": claim.metric.name}
        for name in ESTIMATES:
            row |= (getattr(claim, name) or Estimate.missing()).columns(name)
        for kind in KINDS:
            row |= {f"p_{kind}": claim.p(kind), f"p_{kind}_holm": claim.corrected.get(kind, math.nan)}
        n = claim.main or Estimate.missing()
        row |= {"tuned_is": claim.tuned_is, "robust": claim.robust, "comparisons": claim.comparisons}
        row |= {"missing": "; ".join(claim.missing), "controls_missing": "; ".join(claim.controls_missing)}
        rows.append(row | {"seeds": n.seeds, "prompts": n.prompts})
    return pd.DataFrame(rows)


def runs_against_runs(comparison: Comparison) -> pd.DataFrame:
    """Probability of improvement over dpo and the interquartile mean, over seeds x targets (no summaries)."""
    rows = []
    targets = comparison.measures.targets() or ("nominal",)
    for metric in comparison.measures.metrics():
        theirs = comparison.values(Policy(comparison.dpo.label), metric)
        for point in comparison.setting.points:
            ours = comparison.values(Policy(point.label), metric)
            if ours is None or theirs is None:
                continue
            a, b = ([metric.better * v.of(target)[0] for target in targets] for v in (ours, theirs))
            improvement = statistics.probability_of_improvement(a, b)
            middle = statistics.interquartile_mean([metric.better * task for task in a])
            row: dict[str, Any] = {"label": point.label, "metric": metric.name}
            row |= dict(zip(("improvement", "improvement_low", "improvement_high"), improvement, strict=True))
            row |= dict(zip(("iqm", "iqm_low", "iqm_high"), middle, strict=True))
            rows.append(row | {"seeds": len(ours.seeds), "targets": len(targets)})
    return pd.DataFrame(rows)


def main_table(measures: Measures, comparison: Comparison | None, metric: Metric) -> pd.DataFrame:
    """One row a point: nominal, worst case, area, differences to dpo, KL from the reference, and n; as text."""
    rows = []
    for point in measures.setting.points:
        values, kl = (measures.values(Policy(point.label), name) for name in (metric, KL))
        if values is None:
            continue
        row = {"point": point.label}
        columns = ("nominal", "worst", "area") if len(measures.targets()) > 1 else ("nominal",)
        row |= {name: text(values.estimate(name)) for name in columns if values.has(name)}
        if comparison is not None:
            row |= _differences(comparison, point, metric)
        if kl is not None:
            row["KL, nats"] = text(kl.estimate(WHOLE))
        rows.append(row | {"n": f"{len(values.seeds)} x {values.prompts}"})
    table = pd.DataFrame(rows).fillna("-")
    return table[[name for name in table if name not in LAST] + [name for name in LAST if name in table]]


def _differences(comparison: Comparison, point: Point, metric: Metric) -> dict[str, str]:
    if point is comparison.dpo:
        return {}
    cells = {}
    for target in ("nominal", "worst") if len(comparison.measures.targets()) > 1 else ("nominal",):
        difference = comparison.difference(Policy(point.label), Policy(comparison.dpo.label), metric, target)
        if difference is not None:
            cells[f"{target} - dpo"] = text(difference, sign=True)
    return cells


def text(estimate: Estimate | None, sign: bool = False, digits: int = 3) -> str:
    """``0.512 [0.480, 0.544]``; a dash for what was not measured, ``NaN`` for what is not a number.

    ``0.512 [-]`` where there is no interval.
    """
    if estimate is None or not estimate.seeds:
        return "-"
    if not estimate.known:
        return "NaN"
    form = f"{'+' if sign else ''}.{digits}f"
    if not math.isfinite(estimate.low):
        return f"{estimate.value:{form}} [-]"
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """A table with seven significant digits: the same bytes for the same numbers."""
    table.to_csv(path, index=False, float_format="%.7g", lineterminator="\n")
