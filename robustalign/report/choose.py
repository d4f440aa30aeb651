"""Choosing a radius, or a temperature, without the test population.

All rules look at validation prompts only; the test values of what they chose are reported beside the best in
hindsight, which no rule may know.

- ``nominal``: the strongest setting whose nominal validation value is within a tolerance of dpo's. It sees no
  target at all.
- ``confidence``: the radius that the sample size alone asks for. Of ``n`` training pairs the mean loss is known
  up to sampling; the ball around the sample must be large enough to hold what a resample shows. The divergence
  of a resample is that of the least tilted weights with the resample's mean loss, and the radius its 95 %
  quantile, near ``chi2_1(0.95) / 2n`` (Duchi, Glynn and Namkoong 2021). The run whose realised divergence is
  nearest is chosen. It knows of no shift, and so is a floor.
- ``leave_one_out``: for each validation target the best setting by the worst case of the *others*; the setting
  chosen most often is taken (the weaker one on ties).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from robustalign.evaluation.controls import TRAINED
from robustalign.evaluation.metrics import Metric
from robustalign.report.compare import Comparison
from robustalign.report.measures import Policy, cells
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate
from robustalign.report.strength import has_kl_radius
from robustalign.report.tables import text

RULES = ("nominal", "confidence", "leave_one_out")


@dataclass(frozen=True)
class Choice:
    """What a rule chose among the points of a method and dpo (which stands for radius 0), and its test values."""

    method: str
    metric: Metric
    rule: str
    chosen: str | None
    reason: str
    nominal: Estimate | None  # test, difference to dpo, more is better
    worst: Estimate | None  # test, difference to dpo, more is better
    regret: Estimate | None  # test, how much the best in hindsight is better in the worst case; more is worse
    hindsight: str | None
    candidates: int


def choose(comparison: Comparison, metrics: Sequence[Metric], tolerance: float = 0.01) -> list[Choice]:
    """Every rule's choice for every method, metric by metric."""
    sample = sample_radius(comparison)
    choices = []
    for metric in metrics:
        for method, points in comparison.setting.families().items():
            candidates = [comparison.dpo, *points]
            outcomes = {
                "nominal": nominal_rule(comparison, candidates, metric, tolerance),
                "confidence": confidence_rule(comparison, candidates, sample),
                "leave_one_out": leave_one_out(comparison, candidates, metric),
            }
            choices += [_choice(comparison, method, metric, rule, candidates, *outcomes[rule]) for rule in RULES]
    return choices


def unequal_rules(choices: Sequence[Choice]) -> list[str]:
    """A warning for each rule that chose for some methods and could not for others."""
    warnings = []
    for rule in RULES:
        chosen = {choice.method: choice.chosen is not None for choice in choices if choice.rule == rule}
        if len(set(chosen.values())) < 2:
            continue
        yes, no = (", ".join(name for name, able in chosen.items() if able is yes_or_no) for yes_or_no in (True, False))
        warnings.append(f"selection rules differ: {rule} chooses for {yes}, not for {no}; do not compare these by it")
    return warnings


def nominal_rule(
    comparison: Comparison, candidates: Sequence[Point], metric: Metric, tolerance: float
) -> tuple[Point | None, str]:
    """The strongest candidate whose nominal validation value is within ``tolerance`` (a share) of dpo's."""
    knobs = {point.knob.knob.field for point in candidates if point.knob is not None}
    if len(knobs) > 1:
        return None, f"its settings turn several knobs ({', '.join(sorted(knobs))}), which have no common order"
    scores = {point.label: _score(comparison, point, metric, "nominal") for point in candidates}
    dpo = scores[comparison.dpo.label]
    if dpo is None:
        return None, f"dpo has no number for {metric} on validation prompts"
    floor = dpo - tolerance * abs(dpo)
    fit = [point for point in candidates if (score := scores[point.label]) is not None and score >= floor]
    chosen = max(fit, key=lambda point: (point.strength, point is not comparison.dpo))
    score = scores[chosen.label]
    assert score is not None
    sign = metric.better
    return chosen, f"nominal validation {metric} {sign * score:.3f}, dpo {sign * dpo:.3f}, limit {sign * floor:.3f}"


def leave_one_out(comparison: Comparison, candidates: Sequence[Point], metric: Metric) -> tuple[Point | None, str]:
    """The candidate most often best in the worst case over all validation targets but one."""
    targets = comparison.measures.targets()
    if len(targets) < 3:
        return None, "needs three validation targets"
    rows = [[_score(comparison, point, metric, target) for target in targets] for point in candidates]
    scores = np.array(rows, dtype=float)  # None becomes nan
    if np.isnan(scores).any():
        return None, f"not every run has a number for {metric} on validation prompts"
    best = [int(np.delete(scores, held_out, axis=1).min(1).argmax()) for held_out in range(len(targets))]
    votes = Counter(best)
    winner = min(votes, key=lambda index: (-votes[index], index))
    return candidates[winner], f"best without the one left out for {votes[winner]} of {len(targets)} targets"


@dataclass(frozen=True)
class Sample:
    """The confidence radius of a training sample, and the temperature that has about this radius."""

    pairs: int
    radius: float
    temperature: float


def sample_radius(comparison: Comparison) -> Sample | None:
    """None without dpo's loss on validation prompts or the number of training pairs."""
    losses, pairs = _losses(comparison)
    if losses is None or not pairs:
        return None
    radius = confidence_radius(losses, pairs)
    return Sample(pairs, radius, float(losses.std()) / np.sqrt(2 * radius))


def confidence_rule(
    comparison: Comparison, candidates: Sequence[Point], sample: Sample | None
) -> tuple[Point | None, str]:
    """The candidate whose realised divergence is nearest to the confidence radius of the training sample."""
    if sample is None:
        return None, "needs the loss on validation prompts and the number of training pairs"
    radius = sample.radius
    needed = f"{sample.pairs} pairs: radius {radius:.2g} nats, temperature about {sample.temperature:.2g}"
    if not all(has_kl_radius(point.config["method"]) for point in candidates if not point.plain):
        return None, f"{needed}; only a KL ball has this divergence"
    realised = {point.label: _divergence(point) for point in candidates}
    distance = {label: abs(np.log(d / radius)) for label, d in realised.items() if d}
    if not distance:
        return None, f"{needed}; no divergence was logged"
    label = min(distance, key=lambda name: distance[name])
    if realised[label] > 2 * radius:
        return comparison.dpo, f"{needed}; even {label} realised {realised[label]:.2g}, so dpo"
    return comparison.setting.point(label), f"{needed}; realised {realised[label]:.2g}"


def confidence_radius(losses: np.ndarray, pairs: int, confidence: float = 0.95, draws: int = 500) -> float:
    """The quantile over resamples of ``pairs`` losses of the least KL divergence that explains their mean."""
    rng = np.random.default_rng(4)
    means = np.array([rng.choice(losses, size=pairs).mean() for _ in range(draws)])
    return float(np.quantile([least_divergence(losses, mean) for mean in means], confidence))


def least_divergence(losses: np.ndarray, mean: float) -> float:
    """The smallest KL(w || uniform), in nats, of weights under which ``losses`` have this mean.

    The weights are an exponential tilt; its rate solves for the mean by bisection.
    """
    centred = losses - losses.mean()
    needed, scale = mean - losses.mean(), float(losses.std())
    if scale == 0 or needed == 0:
        return 0.0
    if not centred.min() < needed < centred.max():
        return float(np.log(len(losses)))
    low, high = -1e3 / scale, 1e3 / scale
    for _ in range(80):
        rate = (low + high) / 2
        weights = np.exp(rate * centred - (rate * centred).max())
        weights /= weights.sum()
        low, high = (rate, high) if weights @ centred < needed else (low, rate)
    return float((weights[weights > 0] * np.log(weights[weights > 0] * len(losses))).sum())


def _choice(
    comparison: Comparison,
    method: str,
    metric: Metric,
    rule: str,
    candidates: Sequence[Point],
    chosen: Point | None,
    why: str,
) -> Choice:
    worst = {point.label: _score(comparison, point, metric, "worst", "test") for point in candidates}
    values = {label: value for label, value in worst.items() if value is not None}
    hindsight = max(values, key=lambda label: values[label], default=None)
    if chosen is None or hindsight is None or chosen.label not in values:
        return Choice(method, metric, rule, None, why, None, None, None, hindsight, len(candidates))
    claim = comparison.claim(chosen, metric)
    regret = comparison.gain(Policy(hindsight), Policy(chosen.label), metric, "worst")
    return Choice(
        method, metric, rule, chosen.label, why, claim.nominal, claim.worst, regret, hindsight, len(candidates)
    )


def _score(
    comparison: Comparison, point: Point, metric: Metric, target: str, split: str = "validation"
) -> float | None:
    """The mean over seeds, signed so that more is better; None where it is unknown or not a number."""
    values = comparison.values(Policy(point.label), metric, split)
    if values is None or not values.has(target):
        return None
    score = metric.better * values.mean(target)
    return score if np.isfinite(score) else None


def _losses(comparison: Comparison) -> tuple[np.ndarray | None, int]:
    """dpo's losses on the nominal population's validation pairs, and its number of training pairs."""
    shift, shares = comparison.setting.shift, comparison.setting.shift.shares()
    run = next(iter(comparison.dpo.runs.values()))
    block = cells(run).get((TRAINED, "validation", "loss"))
    pairs = int(run.metrics.get("data/pairs", 0))
    if block is None:
        return None, pairs
    parts = []
    for component, share in zip(shift.components, shares, strict=True):
        total, count = block[component.name]
        values = (total / np.where(count > 0, count, 1))[count > 0]
        parts += [np.resize(values, round(1000 * share))] if share > 0 and len(values) else []
    losses = np.concatenate(parts)
    return (losses if np.isfinite(losses).all() else None), pairs


def _divergence(point: Point) -> float:
    """The divergence realised at the last step, the mean over seeds; 0 where none was logged."""
    last = [run.metrics["robust/divergence"] for run in point.runs.values() if "robust/divergence" in run.metrics]
    return float(np.mean(last)) if last else 0.0


def choices_table(choices: Sequence[Choice]) -> pd.DataFrame:
    """The choices as text for people."""
    rows = []
    for choice in choices:
        row = {
            "method": choice.method,
            "metric": str(choice.metric),
            "rule": choice.rule,
            "chosen": choice.chosen or "-",
        }
        same = choice.nominal is not None and choice.nominal.low == choice.nominal.high == 0
        for name in ("nominal", "worst"):
            row[name] = "dpo's own" if same else text(getattr(choice, name), sign=True)
        row |= {"best in hindsight": choice.hindsight or "-", "short of it by": text(choice.regret)}
        rows.append(row | {"of": str(choice.candidates), "why": choice.reason})
    return pd.DataFrame(rows)


def choices_csv(choices: Sequence[Choice]) -> pd.DataFrame:
    """The choices for machines, one row each."""
    rows = []
    for choice in choices:
        row: dict[str, object] = {"method": choice.method, "metric": choice.metric.name, "rule": choice.rule}
        row |= {"chosen": choice.chosen, "reason": choice.reason}
        for name in ("nominal", "worst", "regret"):
            row |= (getattr(choice, name) or Estimate.missing()).columns(name)
        rows.append(row | {"hindsight": choice.hindsight, "candidates": choice.candidates})
    return pd.DataFrame(rows)
