"""The chi-square ball."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from robustalign.bounds import inside
from robustalign.objectives.ambiguity_set import Knob, WorstLaw, on_the_largest, stand_in
from robustalign.objectives.streaming import StreamingSet


@dataclass(kw_only=True, eq=False)
class ChiSquareBall(StreamingSet):
    """Laws P with E_Q[(dP/dQ - 1)^2] / 2 <= radius (f(t) = (t - 1)^2 / 2; Duchi and Namkoong, arXiv 1810.08750).

    The worst law is p_i = q_i (l_i - eta)_+ / E_Q (l - eta)_+, where eta solves
    E_Q (l - eta)_+^2 = (1 + 2 radius) (E_Q (l - eta)_+)^2; probabilities below 0, which the variance form of this
    penalty would give, do not occur. The dual variable is eta, -inf at radius 0 and inf with all mass on the largest
    loss; the value is inf over eta of sqrt(1 + 2 radius) sqrt(E_Q (l - eta)_+^2) + eta. It is found exactly, by the
    number of losses above it.

    Args:
        radius: >= 0; 0 is the nominal law, (N - 1) / 2 or more puts all mass on the largest of N losses.
        streaming: True carries eta over from recent batches (:class:`StreamingSet`).
        memory: pairs after which a remembered loss counts for 1 / e.

    Example:
        >>> import torch
        >>> ChiSquareBall(radius=0.5).worst_case(torch.tensor([0.0, 1.0])).weights
        tensor([0., 2.])
    """

    name: ClassVar[str] = "chi_square"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("radius", "half the variance of the density"),)
    radius: float = field(metadata=inside("[0, inf)", "0 is the nominal law"))

    def degenerate_radius(self, n: int) -> float | None:
        return (n - 1) / 2

    def _law_of(self, losses: Tensor, prior: Tensor) -> WorstLaw:
        scores = stand_in(losses)
        top, spread = float(scores.max()), float(scores.max() - scores.min())
        bound = 1 + 2 * self.radius
        largest = on_the_largest(scores, prior)
        if not spread > 0 or bound * float(prior[largest > 0].sum()) >= 1:
            law, threshold = largest, math.inf
        elif self.radius == 0:
            law, threshold = prior, -math.inf
        else:
            below = (scores - top) / spread  # exact for near ties at the top, which may decide everything
            threshold = _threshold(below[prior > 0], prior[prior > 0], self.radius)
            law = prior if threshold == -math.inf else prior * (below - threshold).clamp(min=0)
            law, threshold = law / law.sum(), top + spread * threshold
        return WorstLaw(probabilities=law, dual=threshold, divergence=chi_square_divergence(law, prior))


def _threshold(losses: Tensor, prior: Tensor, radius: float) -> float:
    """eta for E_Q (l - eta)_+^2 = bound (E_Q (l - eta)_+)^2, where 1 <= bound = 1 + 2 radius < 1 / Q(l = max l)."""
    order = torch.argsort(losses, descending=True)
    ordered, law = losses[order], prior[order]
    size = _losses_above(ordered, law, 1 + 2 * radius)
    above, missing = law[:size], float(law[size:].sum())
    mass = float(above.sum())
    mean = float((above * ordered[:size]).sum()) / mass
    variance = float((above * (ordered[:size] - mean).square()).sum()) / mass
    # Among the losses above eta, dP/dQ is linear in the loss, with mean 1 / mass and second moment bound / mass.
    # Their excess mass bound - 1 is written so that it keeps its digits at radii below a rounding of 1.
    excess = 2 * radius * mass - missing
    lowest = float(ordered[size]) if size < len(ordered) else -math.inf
    return max(mean - math.sqrt(variance / excess), lowest) if excess > 0 else lowest


def _losses_above(ordered: Tensor, law: Tensor, bound: float) -> int:
    """How many of the descending losses lie above eta, by bisection: the ratio E[(l - eta)_+^2] / E[(l - eta)_+]^2
    grows with eta, so the loss at position k lies above eta exactly if the ratio at eta = l_k exceeds the bound."""
    low, high = 1, len(ordered)
    while low < high:
        middle = (low + high) // 2
        above = ordered[: middle + 1] - ordered[middle]
        first, second = float((law[: middle + 1] * above).sum()), float((law[: middle + 1] * above.square()).sum())
        if second >= bound * first * first:  # 0 = 0 where only the largest are above
            low = middle + 1
        else:
            high = middle
    return low


def chi_square_divergence(law: Tensor, prior: Tensor) -> float:
    """E_Q[(dP/dQ - 1)^2] / 2."""
    inside = prior > 0
    return float((prior[inside] * (law[inside] / prior[inside] - 1).square()).sum()) / 2
