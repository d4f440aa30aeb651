"""Preference data of a log-linear policy class, its estimators and their population optima.

With pi_theta(a|s) proportional to exp(theta . psi(s, a)), |psi| <= 1, and a uniform reference, the normaliser cancels
from the margin: h = theta . x with x = psi(s, a1) - psi(s, a2) (arXiv 2502.01930, assumption 1 and remark 1). Labels
follow Bradley-Terry at theta*, so that theta* is the population's DPO optimum. The Wasserstein adversary moves x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from robustalign.objectives import InputStatistics, KLBall, SigmoidLoss, WassersteinBall

Objective = Callable[[Tensor, "Sample"], Tensor]
"""From theta ``[d]`` and data to a 0-dim objective, differentiable in theta."""


@dataclass(frozen=True)
class Sample:
    """Features of chosen minus rejected ``[N, d]``, and the nominal law ``[N]``, which sums to 1; fp64."""

    features: Tensor
    law: Tensor


@dataclass(frozen=True)
class LogLinear:
    """The class: true parameter ``[d]`` and DPO's beta. Features psi are uniform in the unit ball."""

    truth: Tensor
    beta: float = 1.0

    def sample(self, n: int, seed: int) -> Sample:
        """``n`` independent pairs with Bradley-Terry labels."""
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(n, 2 * (len(self.truth) + 1), generator=generator, dtype=torch.float64)
        x = differences(uniform)
        wins = torch.rand(n, generator=generator, dtype=torch.float64) < torch.sigmoid(self.beta * x @ self.truth)
        return Sample(torch.where(wins[:, None], x, -x), torch.full((n,), 1 / n, dtype=torch.float64))

    def population(self, points: int, seed: int = 0) -> Sample:
        """The population law as ``2 points`` weighted pairs: scrambled Sobol features, each with both labels in their
        exact shares."""
        engine = torch.quasirandom.SobolEngine(2 * (len(self.truth) + 1), scramble=True, seed=seed)
        x = differences(engine.draw(points, dtype=torch.float64))
        share = torch.sigmoid(self.beta * x @ self.truth) / points
        return Sample(torch.cat([x, -x]), torch.cat([share, 1 / points - share]))

    def losses(self, theta: Tensor, data: Sample) -> Tensor:
        """DPO losses ``[N]``."""
        return SigmoidLoss(beta=self.beta).losses(data.features @ theta)

    def dpo(self) -> Objective:
        """The mean loss."""
        return lambda theta, data: data.law @ self.losses(theta, data)

    def kldpo(self, radius: float) -> Objective:
        """The worst mean over the KL ball."""
        ball = KLBall(radius=radius)
        return lambda theta, data: ball.worst_case(self.losses(theta, data), weight=data.law).value

    def wdpo(self, radius: float) -> Objective:
        """Algorithm 1: mean loss plus radius sqrt(E ||grad_x l||^2), the radius in units of x.

        grad_x l = -beta sigmoid(-beta h) theta.
        """
        ball = WassersteinBall(radius=radius, radius_unit="absolute")

        def objective(theta: Tensor, data: Sample) -> Tensor:
            slope = self.beta * torch.sigmoid(-self.beta * data.features @ theta)
            square = (data.law @ slope.square()) * theta.square().sum()
            one = torch.ones_like(square)
            stats = InputStatistics(gradient_square=square, embedding_square=one, elements=one, pairs=one)
            # the penalty carries no gradient, its surrogate carries nothing else
            surrogate = ball.surrogate(stats)
            return data.law @ self.losses(theta, data) + ball.penalty(stats) + surrogate - surrogate.detach()

        return objective

    def worst_loss(self, theta: Tensor, data: Sample, radius: float) -> float:
        """The loss of a policy under the worst re-weighting of ``data`` within ``radius`` nats."""
        return float(KLBall(radius=radius).worst_case(self.losses(theta, data), weight=data.law).value)


def fit(objective: Objective, data: Sample, start: Tensor | None = None) -> Tensor:
    """The minimiser ``[d]`` of an objective, by L-BFGS to a gradient of 1e-8.

    Args:
        start: default 1 in the first coordinate: WDPO's penalty has a kink at 0.
    """
    theta = torch.eye(data.features.shape[1], dtype=torch.float64)[0] if start is None else start.clone()
    theta.requires_grad_()
    search = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-8, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        value = objective(theta, data)
        value.backward()
        return value

    search.step(closure)
    return theta.detach()


def differences(uniform: Tensor) -> Tensor:
    """``[N, d]`` features of one reply minus those of another, each uniform in the unit ball, from ``[N, 2 (d + 1)]``
    numbers in [0, 1]."""
    first, second = uniform.chunk(2, dim=1)
    return _in_the_ball(first) - _in_the_ball(second)


def _in_the_ball(uniform: Tensor) -> Tensor:
    """Points of the unit ball of dimension d, uniform, from ``[N, d + 1]`` numbers in [0, 1]."""
    d = uniform.shape[1] - 1
    normal = math.sqrt(2) * torch.erfinv((2 * uniform[:, :d] - 1).clamp(-1 + 1e-12, 1 - 1e-12))
    radius: Tensor = uniform[:, d:] ** (1 / d) / normal.norm(dim=1, keepdim=True)
    return normal * radius
