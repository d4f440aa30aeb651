"""Comparisons with dpo, and with what a smaller step from the reference would have done as well.

A robust method has to lie beyond four things: dpo itself, dpo at its best step and learning rate, dpo's margins made
smaller (the shrinkage curve), and dpo along its steps. All comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from robustalign.evaluation.controls import REFERENCE, TRAINED, Kind
from robustalign.evaluation.metrics import METRICS, WHOLE, Metric
from robustalign.report import statistics
from robustalign.report.claims import Claim
from robustalign.report.measures import Measures, Policy, Values
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate

KL = METRICS["kl"]


class Comparison:
    """The comparisons of a setting that has a dpo."""

    def __init__(self, measures: Measures) -> None:
        baseline = measures.setting.baseline
        assert baseline is not None
        self.measures, self.setting, self.dpo = measures, measures.setting, baseline
        self.tuned = cache(self._tuned)

    def values(self, policy: Policy, metric: Metric, split: str | None = None) -> Values | None:
        """A policy's values; None if not every run of its point has them."""
        return self.measures.values(policy, metric, split)

    def difference(
        self, ours: Policy, theirs: Policy, metric: Metric, target: str, split: str | None = None
    ) -> Estimate | None:
        """``ours - theirs`` over their common seeds, in the metric's own sign."""
        paired = self.paired([ours, theirs], metric, split)
        if paired is None or not all(values.has(target) for values in paired):
            return None
        a, b = paired
        return statistics.estimate(a.of(target) - b.of(target), min(a.prompts, b.prompts))

    def gain(self, ours: Policy, theirs: Policy, metric: Metric, target: str) -> Estimate | None:
        """The same, signed so that more is better."""
        difference = self.difference(ours, theirs, metric, target)
        return difference.turned() if difference is not None and metric.better < 0 else difference

    def paired(self, policies: Sequence[Policy], metric: Metric, split: str | None = None) -> list[Values] | None:
        """The policies' values over the seeds that all of them have."""
        known = [values for policy in policies if (values := self.values(policy, metric, split)) is not None]
        if len(known) < len(policies):
            return None
        seeds = tuple(sorted(set.intersection(*(set(values.seeds) for values in known))))
        return [values.only(seeds) for values in known] if seeds else None

    def worst_target(self, metric: Metric) -> str:
        """The target at which dpo does worst."""
        values = self.values(Policy(self.dpo.label), metric)
        names = self.measures.targets()
        if values is None or not names:
            return "nominal"
        return names[int(np.argmin([metric.better * values.mean(name) for name in names]))]

    def claim(self, point: Point, metric: Metric) -> Claim:
        """The comparisons of a point in one metric, and what is missing for a verdict."""
        ours, dpo = Policy(point.label), Policy(self.dpo.label)
        tuned = self.tuned(metric, "worst") if self.measures.has_split("validation") else None
        worst = self.gain(ours, dpo, metric, "worst")
        return Claim(
            label=point.label,
            metric=metric,
            nominal=self.gain(ours, dpo, metric, "nominal"),
            worst=worst,
            tuned=None if tuned is None else self.gain(ours, tuned, metric, "worst"),
            tuned_is=None if tuned is None else self.describe(tuned),
            shrinkage=self.beyond(ours, [self.shrinkage()], metric),
            steps=self.beyond(ours, self.step_curves(), metric),
            matched_kl=self.beyond(ours, [self.shrinkage(), *self.step_curves()], metric, at="kl"),
            gap_closed=self.gap_closed(ours, metric),
            saturated=self._saturated(ours, metric, "nominal" if worst is None else "worst"),
            controls_missing=self._controls_missing(metric),
        )

    def _saturated(self, policy: Policy, metric: Metric, target: str) -> bool:
        """Whether the metric is at a bound for every prompt and seed, so that nothing shows how sure that is."""
        values = self.values(policy, metric)
        return values is not None and values.has(target) and values.of(target).min() == values.of(target).max()

    def _controls_missing(self, metric: Metric) -> tuple[str, ...]:
        """The controls that were not run, or have no values of a metric."""

        def known(policies: Sequence[Policy]) -> int:
            return sum(self.values(policy, metric) is not None for policy in policies)

        trained = {policy for curve in self.step_curves() for policy in curve if policy.control != REFERENCE}
        needed = {
            "the reference": known([Policy(self.dpo.label, REFERENCE)]) > 0,
            "the shrinkage curve": known([p for p in self.shrinkage() if p.control.kind is Kind.SHRUNK]) > 0,
            "dpo at other steps or learning rates": known(list(trained)) > 1,
        }
        return tuple(name for name, run in needed.items() if not run)

    def shrinkage(self) -> list[Policy]:
        """From the reference to dpo by ever larger shares of its margins; empty where no share was evaluated."""
        controls = self.measures.controls(self.dpo.label)
        shrunk = sorted((c for c in controls if c.kind is Kind.SHRUNK), key=lambda c: c.factor)
        middle = [Policy(self.dpo.label, control) for control in shrunk]
        return [*self.reference(), *middle, Policy(self.dpo.label)] if middle else []

    def reference(self) -> list[Policy]:
        """The untrained reference, where dpo's runs evaluated it."""
        return [Policy(self.dpo.label, REFERENCE)] if REFERENCE in self.measures.controls(self.dpo.label) else []

    def step_curves(self) -> list[list[Policy]]:
        """From the reference along the steps of each dpo."""
        return [self.steps(point) for point in self.setting.points if point.plain]

    def steps(self, point: Point) -> list[Policy]:
        """From the reference along the steps of a point."""
        earlier = [control for control in self.measures.controls(point.label) if control.kind is Kind.STEP]
        return [*self.reference(), *(Policy(point.label, control) for control in (*earlier, TRAINED))]

    def beyond(
        self, ours: Policy, curves: Sequence[Sequence[Policy]], metric: Metric, at: str = "nominal"
    ) -> Estimate | None:
        """How far the worst case lies above that of the curves, at no worse a nominal value or no more KL.

        A curve counts by those of its policies that have the metric. None where no curve has two.
        """
        margins, anchor = [], None
        for curve in curves:
            known = [p for p in curve if self.values(p, metric) and (at != "kl" or self.values(p, KL))]
            y = self.paired([ours, *known], metric) if len(known) > 1 else None
            x = self.paired([ours, *known], KL) if at == "kl" and y else y
            if x is None or y is None or not y[0].has("worst") or y[0].targets == (WHOLE,):
                continue
            where, sign = (WHOLE, KL.better) if at == "kl" else ("nominal", metric.better)
            xs = np.stack([sign * statistics.seed_means(v.of(where)) for v in x], 1)
            ys = np.stack([metric.better * statistics.seed_means(v.of("worst")) for v in y], 1)
            margins.append(statistics.beyond(xs[:, 0], ys[:, 0], xs[:, 1:], ys[:, 1:]))
            anchor = y
        if anchor is None:
            return None
        spread = anchor[0].of("worst") - anchor[-1].of("worst")
        return statistics.from_draws(np.min(margins, axis=0), spread, anchor[0].prompts)

    def _tuned(self, metric: Metric, target: str) -> Policy | None:
        """dpo at the learning rate and step with the best validation value at ``target``; None without any value."""
        scored = []
        for policy in (policy for curve in self.step_curves() for policy in curve if policy.control != REFERENCE):
            validation, test = self.values(policy, metric, "validation"), self.values(policy, metric)
            if validation is None or test is None or not validation.has(target):
                continue
            score = metric.better * validation.mean(target)
            if np.isfinite(score):
                scored.append((score, policy))
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def describe(self, policy: Policy) -> str:
        """A policy in words."""
        if policy.control.kind in (Kind.TRAINED, Kind.STEP):
            return f"{policy.point}, step {policy.control.step_of(self.setting.point(policy.point).last_step)}"
        return str(policy.control)

    def oracle(self, target: str, metric: Metric) -> Point | None:
        """The ceiling at a target: of the oracles, whatever population each knows, the one that is best there."""
        reached: dict[str, float] = {}
        for point in self.setting.points:
            values = self.values(Policy(point.label), metric) if point.oracle else None
            if values is not None and values.has(target):
                reached[point.label] = metric.better * float(values.of(target)[0].mean())
        return self.setting.point(max(reached, key=lambda label: reached[label])) if reached else None

    def gap_closed(self, ours: Policy, metric: Metric) -> Estimate | None:
        """The share of the distance from dpo to the best oracle at dpo's worst target; None where that is not clear."""
        target = self.worst_target(metric)
        oracle = self.oracle(target, metric)
        if oracle is None:
            return None
        paired = self.paired([ours, Policy(oracle.label), Policy(self.dpo.label)], metric)
        gap = self.gain(Policy(oracle.label), Policy(self.dpo.label), metric, target)
        if paired is None or gap is None or gap.sign <= 0:
            return None
        method, ceiling, floor = (statistics.seed_means(values.of(target)) for values in paired)
        spread = (paired[0].of(target) - paired[2].of(target)) / (ceiling - floor)[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            return statistics.from_draws((method - floor) / (ceiling - floor), spread, paired[0].prompts)
