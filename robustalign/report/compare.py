"""Comparisons with dpo, and with what a smaller step from the reference would have done as well.

A robust method has to lie beyond four things: dpo itself, dpo at its best step and learning rate, dpo's margins
made smaller (the shrinkage curve), and dpo along its steps. All comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robustalign.evaluation.targets import WHOLE
from robustalign.report import statistics
from robustalign.report.measures import Measures, Policy, Values, better
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate

SUMMARIES = ("nominal", "worst", "area")


@dataclass(frozen=True)
class Claim:
    """What can be said of a point in one metric. A comparison that cannot be made is None.

    Differences are signed so that more is better, whatever the metric.
    """

    label: str
    metric: str
    nominal: Estimate | None  # difference to dpo at the nominal population
    worst: Estimate | None  # difference to dpo of the worst case over the targets
    tuned: Estimate | None  # the same to dpo at the step and learning rate that were best on validation prompts
    tuned_is: str | None
    shrinkage: Estimate | None  # worst case beyond dpo's margins x c at no worse a nominal value
    steps: Estimate | None  # worst case beyond dpo along its steps at no worse a nominal value
    matched_kl: Estimate | None  # worst case beyond all of these at no more KL from the reference
    gap_closed: Estimate | None  # share of the way from dpo to the oracle at dpo's worst target

    @property
    def robust(self) -> bool:
        """Better than dpo in the worst case, and beyond every control that was run."""
        tests = (self.worst, self.tuned, self.shrinkage, self.steps, self.matched_kl)
        return self.worst is not None and all(test.sign > 0 for test in tests if test is not None)


class Comparison:
    """The comparisons of a setting that has a dpo."""

    def __init__(self, measures: Measures, split: str = "test") -> None:
        baseline = measures.setting.baseline
        assert baseline is not None
        self.measures, self.setting, self.dpo, self.split = measures, measures.setting, baseline, split

    def values(self, policy: Policy, metric: str, split: str | None = None) -> Values | None:
        return self.measures.values(policy, metric, split or self.split)

    def difference(self, ours: Policy, theirs: Policy, metric: str, target: str, split: str | None = None):
        """``ours - theirs`` over their common seeds, in the metric's own sign."""
        paired = self.paired([ours, theirs], metric, split)
        if paired is None or not all(values.has(target) for values in paired):
            return None
        a, b = paired
        return statistics.estimate(a.of(target) - b.of(target), min(a.prompts, b.prompts))

    def gain(self, ours: Policy, theirs: Policy, metric: str, target: str) -> Estimate | None:
        """The same, signed so that more is better."""
        return _signed(self.difference(ours, theirs, metric, target), metric)

    def paired(self, policies: Sequence[Policy], metric: str, split: str | None = None) -> list[Values] | None:
        """The policies' values over the seeds that all of them have."""
        found = [values for policy in policies if (values := self.values(policy, metric, split)) is not None]
        if len(found) < len(policies):
            return None
        seeds = tuple(sorted(set.intersection(*(set(values.seeds) for values in found))))
        return [values.only(seeds) for values in found] if seeds else None

    def worst_target(self, metric: str) -> str:
        """The target at which dpo does worst."""
        values = self.values(Policy(self.dpo.label), metric)
        names = self.measures.targets()
        if values is None or not names:
            return "nominal"
        means = [better(metric) * values.of(name)[0].mean() for name in names]
        return names[int(np.argmin(means))]

    def claim(self, point: Point, metric: str) -> Claim:
        ours, dpo = Policy(point.label), Policy(self.dpo.label)
        tuned = self.tuned(metric, "worst") if self.measures.has_split("validation") else None
        return Claim(
            label=point.label,
            metric=metric,
            nominal=self.gain(ours, dpo, metric, "nominal"),
            worst=self.gain(ours, dpo, metric, "worst"),
            tuned=None if tuned is None else self.gain(ours, tuned, metric, "worst"),
            tuned_is=None if tuned is None else self.describe(tuned),
            shrinkage=self.beyond(ours, [self.shrinkage()], metric),
            steps=self.beyond(ours, self.step_curves(), metric),
            matched_kl=self.beyond(ours, [self.shrinkage(), *self.step_curves()], metric, at="kl"),
            gap_closed=self.gap_closed(ours, metric),
        )

    def shrinkage(self) -> list[Policy]:
        """From the reference to dpo by ever larger shares of its margins."""
        last = self.dpo.last_step
        shrunk = [(float(c.removeprefix("shrink_")), c) for c, step in self._controls() if c.startswith("shrink_")]
        middle = [Policy(self.dpo.label, control, last) for _, control in sorted(shrunk)]
        return [*self.reference(), *middle, Policy(self.dpo.label)] if middle else []

    def reference(self) -> list[Policy]:
        return [Policy(self.dpo.label, "reference")] if ("reference", 0) in self._controls() else []

    def step_curves(self) -> list[list[Policy]]:
        """From the reference along the steps of each dpo."""
        return [self.steps(point) for point in self.setting.points if point.plain]

    def steps(self, point: Point) -> list[Policy]:
        along = [step for control, step in self.measures.controls(point) if control == "policy"]
        earlier = [Policy(point.label, "policy", step) for step in along if step < point.last_step]
        return [*self.reference(), *earlier, Policy(point.label)]

    def beyond(self, ours: Policy, curves: Sequence[Sequence[Policy]], metric: str, at: str = "nominal"):
        """How far the worst case lies above that of the curves, at no worse a nominal value or no more KL.

        A curve counts by the policies of it that have the metric. None where no curve has two.
        """
        margins, anchor = [], None
        for curve in curves:
            known = [p for p in curve if self.values(p, metric) and (at != "kl" or self.values(p, "kl"))]
            y = self.paired([ours, *known], metric) if len(known) > 1 else None
            x = self.paired([ours, *known], "kl") if at == "kl" and y else y
            if x is None or y is None or not y[0].has("worst") or y[0].targets == (WHOLE,):
                continue
            where, sign_x = ("any", -1) if at == "kl" else ("nominal", better(metric))
            xs = np.stack([sign_x * statistics.seed_means(v.of(where)) for v in x], 1)
            ys = np.stack([better(metric) * statistics.seed_means(v.of("worst")) for v in y], 1)
            margins.append(statistics.beyond(xs[:, 0], ys[:, 0], xs[:, 1:], ys[:, 1:]))
            anchor = y
        if anchor is None:
            return None
        spread = anchor[0].of("worst") - anchor[-1].of("worst")
        return statistics.from_draws(np.min(margins, axis=0), spread, anchor[0].prompts)

    def tuned(self, metric: str, target: str) -> Policy | None:
        """dpo at the learning rate and step with the best validation value at ``target``."""
        candidates = [policy for curve in self.step_curves() for policy in curve if policy.control == "policy"]
        scored = []
        for policy in candidates:
            values, shown = self.values(policy, metric, "validation"), self.values(policy, metric)
            if values is not None and shown is not None and values.has(target):
                scored.append((better(metric) * values.estimate(target).value, policy))
        return max(scored, key=lambda pair: pair[0])[1] if scored else None

    def describe(self, policy: Policy) -> str:
        step = policy.step if policy.step is not None else self.setting.point(policy.point).last_step
        return f"{policy.point}, step {step}" if policy.control == "policy" else policy.control

    def oracle(self, target: str) -> Point | None:
        """The oracle that knows a target."""
        farthest = self.setting.shift.farthest() if self.measures.targets() else None
        for point in self.setting.points:
            if point.oracle and (point.config["method"].get("target") or farthest) == target:
                return point
        return None

    def gap_closed(self, ours: Policy, metric: str) -> Estimate | None:
        """The share of the distance from dpo to the oracle at dpo's worst target; None where that is not clear."""
        target = self.worst_target(metric)
        oracle = self.oracle(target)
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

    def _controls(self) -> list[tuple[str, int]]:
        return self.measures.controls(self.dpo)


def _signed(found: Estimate | None, metric: str) -> Estimate | None:
    """With more meaning better."""
    if found is None or better(metric) > 0:
        return found
    return Estimate(0.0 - found.value, 0.0 - found.high, 0.0 - found.low, found.seeds, found.prompts)
