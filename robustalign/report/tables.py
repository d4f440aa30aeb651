"""The tables of a report: long ones for machines, short ones for papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from robustalign.report import statistics
from robustalign.report.compare import Claim, Comparison
from robustalign.report.measures import Measures, Policy, better
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate

LAST = ("KL, nats", "n")  # columns of a short table


def results(measures: Measures, comparison: Comparison | None, splits: Sequence[str]) -> pd.DataFrame:
    """Every policy at every target: value, paired difference to dpo, both with intervals, and n."""
    rows = []
    for point in measures.setting.points:
        for control, step in measures.controls(point):
            policy = Policy(point.label, control, step)
            for split in splits:
                for metric in (*measures.metrics(split), "kl"):
                    rows += _rows(measures, comparison, policy, split, metric)
    return pd.DataFrame(rows)


def _rows(
    measures: Measures, comparison: Comparison | None, policy: Policy, split: str, metric: str
) -> list[dict[str, Any]]:
    values = measures.values(policy, metric, split)
    if values is None:
        return []
    point, rows = measures.setting.point(policy.point), []
    shift = measures.setting.shift
    for target in values.targets:
        coordinate = shift.coordinate(target) if target in shift.names else 0.0 if target == "nominal" else math.nan
        row: dict[str, Any] = {"label": point.label, "method": point.method, "radius": point.radius}
        row |= {"temperature": point.temperature, "beta": point.beta, "control": policy.control, "step": policy.step}
        row |= {"split": split, "metric": metric, "target": target, "coordinate": coordinate}
        row |= _columns(values.estimate(target), "")
        if comparison is not None:
            found = comparison.difference(policy, Policy(comparison.dpo.label), metric, target, split)
            row |= _columns(found or Estimate.missing(), "difference")
        rows.append(row | {"seeds": len(values.seeds), "prompts": values.prompts})
    return rows


def claims(comparison: Comparison) -> list[Claim]:
    """What can be said of each point but dpo, metric by metric."""
    metrics = comparison.measures.metrics()
    return [comparison.claim(point, metric) for point in comparison.setting.others for metric in metrics]


def claims_table(found: Sequence[Claim]) -> pd.DataFrame:
    """The claims, one row each."""
    rows = []
    for claim in found:
        row: dict[str, Any] = {"label": claim.label, "metric": claim.metric}
        for name in ("nominal", "worst", "tuned", "shrinkage", "steps", "matched_kl", "gap_closed"):
            row |= _columns(getattr(claim, name) or Estimate.missing(), name)
        n = claim.worst or claim.nominal or Estimate.missing()
        rows.append(row | {"tuned_is": claim.tuned_is, "robust": claim.robust, "seeds": n.seeds, "prompts": n.prompts})
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
            sign = better(metric)
            a, b = ([sign * v.of(target)[0] for target in targets] for v in (ours, theirs))
            improvement = statistics.probability_of_improvement(a, b)
            middle = statistics.interquartile_mean([sign * task for task in a])
            row: dict[str, Any] = {"label": point.label, "metric": metric}
            row |= dict(zip(("improvement", "improvement_low", "improvement_high"), improvement, strict=True))
            row |= dict(zip(("iqm", "iqm_low", "iqm_high"), middle, strict=True))
            rows.append(row | {"seeds": len(ours.seeds), "targets": len(targets)})
    return pd.DataFrame(rows)


def main_table(measures: Measures, comparison: Comparison | None, metric: str) -> pd.DataFrame:
    """One row a point: nominal, worst case, area, differences to dpo, KL from the reference, and n; as text."""
    rows = []
    for point in measures.setting.points:
        values, kl = (measures.values(Policy(point.label), name) for name in (metric, "kl"))
        if values is None:
            continue
        row = {"point": point.label}
        shown = ("nominal", "worst", "area") if len(measures.targets()) > 1 else ("nominal",)
        row |= {name: text(values.estimate(name)) for name in shown if values.has(name)}
        if comparison is not None:
            row |= _differences(comparison, point, metric)
        if kl is not None:
            row["KL, nats"] = text(kl.estimate("any"))
        rows.append(row | {"n": f"{len(values.seeds)} x {values.prompts}"})
    table = pd.DataFrame(rows).fillna("-")
    return table[[name for name in table if name not in LAST] + [name for name in LAST if name in table]]


def _differences(comparison: Comparison, point: Point, metric: str) -> dict[str, str]:
    if point is comparison.dpo:
        return {}
    found = {}
    for target in ("nominal", "worst") if len(comparison.measures.targets()) > 1 else ("nominal",):
        difference = comparison.difference(Policy(point.label), Policy(comparison.dpo.label), metric, target)
        if difference is not None:
            found[f"{target} - dpo"] = text(difference, sign=True)
    return found


def text(found: Estimate | None, sign: bool = False, digits: int = 3) -> str:
    """``0.512 [0.480, 0.544]``; a dash for what cannot be told, and ``[-]`` where there is no interval."""
    if found is None or not math.isfinite(found.value):
        return "-"
    form = f"{'+' if sign else ''}.{digits}f"
    if not math.isfinite(found.low):
        return f"{found.value:{form}} [-]"
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """A table with ten significant digits at most: the same bytes for the same numbers."""
    table.to_csv(path, index=False, float_format="%.7g", lineterminator="\n")


def markdown(table: pd.DataFrame) -> str:
    """A table in markdown."""
    return str(table.to_markdown(index=False, disable_numparse=True))


def latex(table: pd.DataFrame, caption: str) -> str:
    """A booktabs table; intervals are set small."""

    def cell(value: str) -> str:
        escaped = value.replace("_", r"\_").replace("%", r"\%")
        return escaped.replace(" [", r" {\scriptsize [").replace("]", "]}") if " [" in escaped else escaped

    head = " & ".join(cell(str(name)) for name in table.columns) + r" \\"
    body = [" & ".join(cell(str(value)) for value in row) + r" \\" for row in table.itertuples(index=False)]
    lines = [r"\begin{tabular}{l" + "c" * (len(table.columns) - 1) + "}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([f"% {caption}", *lines, r"\bottomrule", r"\end{tabular}", ""])


def _columns(found: Estimate, name: str) -> dict[str, float]:
    prefix = f"{name}_" if name else ""
    return {name or "value": found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}
