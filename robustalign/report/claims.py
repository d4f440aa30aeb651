"""What may be claimed of a method: which comparisons a verdict needs, and how many others it stands among.

A verdict needs ``SEEDS`` seeds shared with dpo and ``PROMPTS`` test prompts, as fewer give no interval worth the name,
and a metric that is not at its bound everywhere. "Beyond every control" also needs the controls to have been run.

Several methods and metrics give several chances of an error. Verdicts of one kind (worst case against dpo, nominal
value against dpo, worst case beyond every control) are therefore corrected by Holm's method for all methods under test
times all metrics, where nothing is missing for a verdict. The chance of even one false verdict of a kind is then below
5 %. To be beyond every control is to be beyond each of them, so its p-value is the largest of theirs (an
intersection-union test; Berger 1982).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from robustalign.evaluation.metrics import Metric
from robustalign.report.statistics import CONFIDENCE, Estimate, holm

SEEDS = 3
PROMPTS = 30
ESTIMATES = ("nominal", "worst", "tuned", "shrinkage", "steps", "matched_kl", "gap_closed")
CONTROLS = ("tuned", "shrinkage", "steps", "matched_kl")
KINDS = ("worst", "nominal", "beyond")  # of verdicts


@dataclass(frozen=True)
class Claim:
    """The comparisons of a point in one metric. One that cannot be made is None.

    Differences are signed so that more is better, whatever the metric.
    """

    label: str
    metric: Metric
    nominal: Estimate | None
    """Difference to dpo at the nominal population."""
    worst: Estimate | None
    """Difference to dpo of the worst case over the targets."""
    tuned: Estimate | None
    """The same to dpo at the step and learning rate that were best on validation prompts."""
    tuned_is: str | None
    """Which step and learning rate these are."""
    shrinkage: Estimate | None
    """Worst case beyond dpo's margins times c, at no worse a nominal value."""
    steps: Estimate | None
    """Worst case beyond dpo along its steps, at no worse a nominal value."""
    matched_kl: Estimate | None
    """Worst case beyond all of these at no more KL from the reference."""
    gap_closed: Estimate | None
    """Share of the way from dpo to the oracle, at dpo's worst target."""
    saturated: bool = False
    """Whether the metric is the same for every prompt and seed."""
    controls_missing: tuple[str, ...] = ()
    """Controls without values of this metric."""
    corrected: Mapping[str, float] = field(default_factory=dict)
    """p-values by kind of verdict, after Holm's correction; without one a verdict stands alone."""
    comparisons: int = 1
    """How many verdicts of a kind were corrected for."""

    @property
    def main(self) -> Estimate | None:
        """The worst case, or the nominal value where there are no targets."""
        return self.worst or self.nominal

    @property
    def missing(self) -> tuple[str, ...]:
        """What is missing for any verdict, in words."""
        if self.main is None:
            return ("it was not measured for both the method and dpo",)
        if not self.main.known:
            return ("its value or dpo's is not a number",)
        lacks = []
        if self.main.seeds < SEEDS:
            lacks.append(f"{_count(self.main.seeds, 'seed')} of the {SEEDS} that a verdict needs")
        if self.main.prompts < PROMPTS:
            lacks.append(f"{_count(self.main.prompts, 'prompt')} of the {PROMPTS} that a verdict needs")
        if self.saturated:
            lacks.append("the value is the same for every prompt and seed")
        return tuple(lacks)

    def p(self, kind: str) -> float:
        """The p-value of a kind of verdict by itself."""
        if kind != "beyond":
            estimate = getattr(self, kind)
            return 1.0 if estimate is None else estimate.p
        tests = [self.worst, *(getattr(self, name) for name in CONTROLS)]
        tests_made = [test for test in tests if test is not None]
        return max(test.p if test.value > 0 else 1.0 for test in tests_made) if self.worst is not None else 1.0

    def clear(self, kind: str) -> bool:
        """Whether the verdict of a kind holds after correction, if nothing is missing for one."""
        return not self.missing and self.corrected.get(kind, self.p(kind)) < 1 - CONFIDENCE

    @property
    def gain(self) -> bool:
        """Better than dpo in the worst case."""
        return self.worst is not None and self.worst.value > 0 and self.clear("worst")

    @property
    def loss(self) -> bool:
        """Worse than dpo in the worst case."""
        return self.worst is not None and self.worst.value < 0 and self.clear("worst")

    @property
    def nominal_sign(self) -> int:
        """1 where the nominal value is better than dpo's, -1 where it is worse, 0 where neither is shown."""
        if self.nominal is None or not self.clear("nominal"):
            return 0
        return 1 if self.nominal.value > 0 else -1

    @property
    def robust(self) -> bool:
        """Better than dpo in the worst case, and beyond every control, all of which were run."""
        return self.gain and not self.controls_missing and self.clear("beyond")


def correct(claims: Sequence[Claim]) -> list[Claim]:
    """The claims in their order, those that can have a verdict with p-values corrected for all of these."""
    able = [claim for claim in claims if not claim.missing]
    adjusted = {kind: iter(holm([claim.p(kind) for claim in able])) for kind in KINDS}
    return [
        claim
        if claim.missing
        else replace(claim, corrected={kind: next(adjusted[kind]) for kind in KINDS}, comparisons=len(able))
        for claim in claims
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
