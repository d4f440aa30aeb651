"""Kullback-Leibler tilts: a law from a temperature, and the temperature of a radius.

The worst law of the ball KL(P || Q) <= rho is the exponential tilt p_i = q_i exp(l_i / tau) / Z (arXiv 2502.01930,
Prop. 2). With s = 1 / tau and psi(s) = log E_Q exp(s l), its divergence is KL(s) = s psi'(s) - psi(s), which grows
from 0 to -log Q(l = max l), with the slope s Var_P(l). So the radius fixes the temperature wherever the ball does
not reach the largest loss; for small radii rho = Var_Q(l) / (2 tau^2), which is where Newton's method starts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustalign.objectives.ambiguity_set import nominal_law, on_the_largest, stand_in
from robustalign.objectives.checks import at_least_zero, one_of

DIRECTIONS = {"pessimistic": 1.0, "optimistic": -1.0}
"""Sign of the tilt: pessimistic laws favour large losses, optimistic ones small losses."""
STRIDE = 16.0
"""The most by which Newton's step multiplies the slope; where it would be more, strides are squared from here on."""
STEEPEST = 1e300


def temperature_for_radius(
    losses: Tensor, radius: float, *, weight: Tensor | None = None, direction: str = "pessimistic"
) -> float:
    """The temperature whose tilt of these losses lies at a given divergence.

    Args:
        losses: ``[N]``: a batch, or all losses of a data set.
        radius: nats, >= 0.
        weight: ``[N]`` prior weights.
        direction: ``pessimistic`` or ``optimistic``.

    Returns:
        tau > 0 with |KL - radius| <= 1e-10 max(1, radius); inf at radius 0; 0 where the radius reaches the law on
        the extreme losses alone (equal losses too), which no positive temperature does.

    Raises:
        ValueError: a negative radius, an unknown direction, or bad weights.
    """
    at_least_zero("radius", radius, "give nats")
    scores, prior = _scores(losses, weight, direction)
    return solve_temperature(scores, prior, radius)


def radius_for_temperature(
    losses: Tensor, temperature: float, *, weight: Tensor | None = None, direction: str = "pessimistic"
) -> float:
    """The divergence in nats, KL(P || Q), of the tilt of these losses at a temperature >= 0 (inf allowed)."""
    if not temperature >= 0:
        raise ValueError(f"temperature: {temperature} must be >= 0")
    scores, prior = _scores(losses, weight, direction)
    return kl_divergence(tilt(scores, prior, temperature), prior)


def tilt(scores: Tensor, prior: Tensor, temperature: float) -> Tensor:
    """The law ``prior * exp(scores / temperature) / Z``, ``[N]``, for any temperature in [0, inf] and any scores."""
    if temperature == math.inf:
        return prior
    top = scores.max()
    if temperature == 0 or torch.isinf(top):
        return on_the_largest(scores, prior)
    law = prior * torch.exp((scores - top) / temperature)
    return law / law.sum()


def kl_divergence(law: Tensor, prior: Tensor) -> float:
    """KL(law || prior) in nats, as the sum of q (t log t - t + 1), t = p / q: no term is negative."""
    inside = prior > 0
    excess = law[inside] / prior[inside] - 1
    terms = torch.special.xlog1py(1 + excess, excess) - excess
    return max(float((prior[inside] * terms).sum()), 0.0)


def solve_temperature(scores: Tensor, prior: Tensor, radius: float) -> float:
    """The temperature at which the tilt of ``scores`` has the divergence ``radius``; see the module's text.

    Newton's method on s = 1 / tau, kept inside a bracket; fp64.
    """
    if radius == 0:
        return math.inf
    inside = prior > 0
    scores, prior = stand_in(scores[inside]), prior[inside]
    spread = float(scores.max() - scores.min())
    if not spread > 0 or radius >= _largest_divergence(scores, prior):
        return 0.0
    below = (scores - scores.max()) / spread
    slope = math.sqrt(2 * radius / float((prior * (below - (prior * below).sum()).square()).sum()))
    low, high, stride = 0.0, math.inf, STRIDE
    for _ in range(200):
        divergence, variance = _tilted_moments(below, prior, slope)
        gap = divergence - radius
        low, high = (slope, high) if gap < 0 else (low, slope)
        step = slope - gap / (slope * variance) if slope * variance > 0 else math.inf
        if not low < step < min(high, STRIDE * slope):
            # Between two nearly equal losses the divergence has a plateau, from which Newton leaps too far.
            step = min(slope * stride, STEEPEST) if high == math.inf else _between(low, high, stride)
            stride = min(stride * stride, STEEPEST)
        if abs(gap) <= 1e-14 * radius or abs(step - slope) <= 1e-15 * slope:
            break
        slope = step
    return spread / slope


def _between(low: float, high: float, stride: float) -> float:
    """A slope inside the bracket: the geometric mean, or a stride below ``high`` where ``low`` is 0."""
    return math.sqrt(low) * math.sqrt(high) if low > 0 else max(high / stride, 1 / STEEPEST)


def _largest_divergence(scores: Tensor, prior: Tensor) -> float:
    return -math.log(min(float(prior[scores == scores.max()].sum()), 1.0))


def _tilted_moments(below: Tensor, prior: Tensor, slope: float) -> tuple[float, float]:
    """KL of the tilt at inverse temperature ``slope``, and the variance of the scores under it.

    ``below`` are the scores minus the largest. KL = slope E_P[x] - log E_Q exp(slope x) for scores x from any origin:
    the largest for steep tilts; for slight ones the mean, where the logarithm is that of 1 + O(slope^2) and log1p and
    expm1 keep its digits.
    """
    law = tilt(below, prior, 1 / slope)
    mean = (law * below).sum()
    variance = float((law * (below - mean).square()).sum())
    if slope >= 1:
        return slope * float(mean) - float(torch.log((prior * torch.exp(slope * below)).sum())), variance
    centre = (prior * below).sum()
    exponents = slope * (below - centre)
    excess = float((prior * (torch.expm1(exponents) - exponents)).sum())
    return slope * float(mean - centre) - math.log1p(excess), variance


def _scores(losses: Tensor, weight: Tensor | None, direction: str) -> tuple[Tensor, Tensor]:
    one_of("direction", direction, DIRECTIONS)
    values, prior = nominal_law(losses, weight)
    return DIRECTIONS[direction] * values, prior
