"""Losses that have broken solvers before, and a convex solver to check ours against."""

from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

torch.set_num_threads(1)


def adversarial_losses() -> dict[str, Tensor]:
    """Finite fp64 losses of at least two different values each."""
    generator = torch.Generator().manual_seed(7)
    softplus = torch.nn.functional.softplus(torch.randn(24, generator=generator, dtype=torch.float64))
    return {
        "softplus": softplus,
        "two": torch.tensor([0.2, 0.9], dtype=torch.float64),
        "tied_top": torch.tensor([1.0, 1.0, 1.0, 0.5, 0.2, 0.2], dtype=torch.float64),
        "tied_bottom": torch.tensor([3.0, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64),
        "outlier": torch.cat([softplus[:9], torch.tensor([40.0], dtype=torch.float64)]),
        "negative": softplus[:12] - 2.0,
        "nearly_equal": 0.693 + 1e-4 * softplus[:8],
    }


LOSSES = adversarial_losses()


def random_problems(count: int) -> list[tuple[Tensor, Tensor]]:
    """Losses of all kinds and sizes, each with prior weights: heavy tails, ties, near ties, tiny and huge spreads."""
    generator = torch.Generator().manual_seed(11)
    problems = []
    for trial in range(count):
        n = (2, 3, 5, 16, 64)[trial % 5]
        losses = torch.randn(n, generator=generator, dtype=torch.float64)
        near_tie = losses.clone()
        near_tie[0] = losses.max()
        near_tie[1] = near_tie[0] * (1 - 1e-10)
        heavy = torch.rand(n, generator=generator, dtype=torch.float64) ** -3
        kinds = [losses, heavy, (2 * losses).round(), near_tie, 1e8 * losses, 0.693 + 1e-8 * losses]
        weight = 0.01 + torch.rand(n, generator=generator, dtype=torch.float64)
        problems.append((kinds[trial % 6], weight))
    return [(losses, weight) for losses, weight in problems if losses.max() > losses.min()]


@pytest.fixture(params=sorted(LOSSES))
def losses(request: pytest.FixtureRequest) -> Tensor:
    return LOSSES[request.param]


@pytest.fixture(params=[False, True], ids=["uniform", "prior"])
def weight(request: pytest.FixtureRequest, losses: Tensor) -> Tensor | None:
    """No prior weights, or uneven ones."""
    return torch.linspace(0.5, 2.0, len(losses), dtype=torch.float64) if request.param else None


def nominal(losses: Tensor, weight: Tensor | None) -> np.ndarray:
    law = np.ones(len(losses)) if weight is None else weight.numpy()
    return law / law.sum()


@pytest.fixture(scope="session")
def problems() -> list[tuple[Tensor, Tensor]]:
    return random_problems(300)


@pytest.fixture
def prior_law() -> Callable[[Tensor, Tensor | None], np.ndarray]:
    """Prior weights as probabilities."""
    return nominal


@pytest.fixture
def convex_worst_case() -> Callable[..., tuple[float, np.ndarray]]:
    """The worst case by an interior-point solver: see ``solve_worst_case``."""
    return solve_worst_case


def solve_worst_case(losses: Tensor, weight: Tensor | None, ball, minimise: bool = False) -> tuple[float, np.ndarray]:
    """max (or min) of p @ losses over the simplex cut with ``ball(p, q)``, a list of cvxpy constraints.

    Losses are shifted and scaled to [0, 1] for the solver's sake; the value is in their own unit.
    """
    q, values = nominal(losses, weight), losses.numpy()
    spread = values.max() - values.min()
    scaled = (values - values.min()) / spread
    p = cp.Variable(len(values), nonneg=True)
    objective = cp.Minimize(p @ scaled) if minimise else cp.Maximize(p @ scaled)
    problem = cp.Problem(objective, [cp.sum(p) == 1, *ball(p, q)])
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return float(values.min() + spread * problem.value), p.value
