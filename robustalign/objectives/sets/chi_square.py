"""The chi-square ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustalign.objectives.ambiguity_set import WorstLaw, on_the_largest, stand_in
from robustalign.objectives.checks import at_least_zero
from robustalign.objectives.streaming import StreamingSet


@dataclass(kw_only=True, eq=False)
class ChiSquareBall(StreamingSet):
    """Laws P with E_Q[(dP/dQ - 1)^2] / 2 <= radius (f(t) = (t - 1)^2 / 2; Duchi and Namkoong, arXiv 1810.08750).

    The worst law is p_i = q_i (l_i - eta)_+ / E_Q (l - eta)_+, where eta solves
    E_Q (l - eta)_+^2 = (1 + 2 radius) (E_Q (l - eta)_+)^2; probabilities below 0, which the variance form of this
    penalty would give, do not occur. The dual variable is eta: the value is
    inf over eta of sqrt(1 + 2 radius) sqrt(E_Q (l - eta)_+^2) + eta. Found exactly, by the number of losses above eta.

    Args:
        radius: >= 0; 0 is the nominal law, (N - 1) / 2 or more puts all mass on the largest of N losses.
        streaming: True carries eta over from recent batches (:class:`StreamingSet`).
        memory: pairs after which a remembered loss counts for 1 / e.
    """

    name: ClassVar[str] = "chi_square"
    radius: float

    def __post_init__(self) -> None:
        at_least_zero("radius", self.radius, "0 is the nominal law")
        super().__post_init__()

    def degenerate_radius(self, n: int) -> float | None:
        return (n - 1) / 2

    def _law_of(self, losses: Tensor, prior: Tensor) -> WorstLaw:
        scores = stand_in(losses)
        threshold = worst_threshold(scores, prior, self.radius)
        if threshold == -math.inf:
            law = prior
        elif threshold == math.inf:
            law = on_the_largest(scores, prior)
        else:
            law = prior * (scores - threshold).clamp(min=0)
            law = law / law.sum()
        return WorstLaw(probabilities=law, dual=threshold, divergence=chi_square_divergence(law, prior))


def worst_threshold(losses: Tensor, prior: Tensor, radius: float) -> float:
    """eta of :class:`ChiSquareBall`; -inf at radius 0, and inf where all mass is on the largest loss."""
    inside = prior > 0
    order = torch.argsort(losses[inside], descending=True)
    ordered, law = losses[inside][order], prior[inside][order]
    spread = float(ordered[0] - ordered[-1])
    bound = 1 + 2 * radius
    if not spread > 0 or bound * float(law[ordered == ordered[0]].sum()) >= 1:
        return math.inf
    if radius == 0:
        return -math.inf
    scaled = (ordered - ordered[0]) / spread
    size = _losses_above(scaled, law, bound)
    mass = float(law[:size].sum())
    share = law[:size] / mass
    mean = float((share * scaled[:size]).sum())
    variance = float((share * (scaled[:size] - mean).square()).sum())
    # Among these, dP/dQ is linear in the loss, with mean 1 / mass and second moment 1 + 2 radius.
    return float(ordered[0]) + spread * (mean - math.sqrt(variance / (mass * bound - 1)))


def _losses_above(ordered: Tensor, law: Tensor, bound: float) -> int:
    """How many of the descending losses lie above eta, by bisection: the ratio E[(l - eta)_+^2] / E[(l - eta)_+]^2
    grows with eta, so the loss at position k lies above eta exactly if the ratio at eta = l_k exceeds the bound."""
    low, high = 1, len(ordered)
    while low < high:
        middle = (low + high) // 2
        above = ordered[: middle + 1] - ordered[middle]
        first, second = float((law[: middle + 1] * above).sum()), float((law[: middle + 1] * above.square()).sum())
        if second > bound * first * first:
            low = middle + 1
        else:
            high = middle
    return low


def chi_square_divergence(law: Tensor, prior: Tensor) -> float:
    """E_Q[(dP/dQ - 1)^2] / 2."""
    inside = prior > 0
    return float((prior[inside] * (law[inside] / prior[inside] - 1).square()).sum()) / 2
