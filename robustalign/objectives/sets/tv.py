"""The total-variation ball."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from robustalign.bounds import inside
from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob, WorstLaw, on_the_largest
from robustalign.objectives.sets.cvar import worst_share


@dataclass(frozen=True, kw_only=True)
class TVBall(AmbiguitySet):
    """Laws P with (1/2) sum |p_i - q_i| <= radius: that much mass moves from the smallest losses to the largest
    (Mandal et al., arXiv 2503.00539). The value is (1 - radius) CVaR_{1 - radius} + radius max l.

    The dual variable is the largest loss that has given up mass.

    Args:
        radius: in [0, 1]; 0 is the nominal law, 1 - 1/N or more puts all mass on the largest of N losses.

    Example:
        >>> import torch
        >>> TVBall(radius=0.25).worst_case(torch.tensor([1.0, 3.0])).weights  # a quarter moves to the worst
        tensor([0.5000, 1.5000])
    """

    name: ClassVar[str] = "tv"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("radius", "share of the mass"),)
    radius: float = field(metadata=inside("[0, 1]", "it is a share of the mass"))

    def degenerate_radius(self, n: int) -> float | None:
        return 1 - 1 / n

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        largest = on_the_largest(losses, prior)
        if self.radius == 1:
            law, drained = largest, float(losses.max())
        else:
            tail, drained = worst_share(losses, prior, 1 - self.radius)
            law = (1 - self.radius) * tail + self.radius * largest
        return WorstLaw(probabilities=law, dual=drained, divergence=float((law - prior).abs().sum()) / 2)
