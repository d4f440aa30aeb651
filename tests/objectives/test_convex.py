"""Every registered set against a convex solver: a new one fails here until its ball is written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

from robustalign.objectives import SETS
from tests.objectives.conftest import random_problems, solve_worst_case

# name -> (fields, the set of laws p around the nominal law q in the solver's words); group ids alternate
CONVEX: dict[str, tuple[dict[str, Any], Callable]] = {
    "nominal": ({}, lambda p, q: [p == q]),
    "kl": ({"radius": 0.3}, lambda p, q: [cp.sum(cp.kl_div(p, q)) <= 0.3]),
    "chi_square": ({"radius": 0.4}, lambda p, q: [cp.sum_squares(cp.multiply(p - q, q**-0.5)) / 2 <= 0.4]),
    "cvar": ({"alpha": 0.45}, lambda p, q: [p <= q / 0.45]),
    "tv": ({"radius": 0.3}, lambda p, q: [cp.norm1(p - q) / 2 <= 0.3]),
    "group": ({"form": "exact"}, lambda p, q: mixtures(p, q)),
}
MOVES_NO_MASS = {  # the adversary changes something else than the law over the pairs, whose weights stay nominal
    "wasserstein": {"radius": 0.3},
    "output_layer": {"radius": 0.3},
}
PROBLEMS = [(losses, weight) for losses, weight in random_problems(30) if 4 < len(losses) < 64]


def mixtures(p: cp.Variable, q: np.ndarray) -> list:
    """sum_g a_g Q(. | g) with a in the simplex."""
    members = np.eye(2)[np.arange(len(q)) % 2]
    shares = cp.Variable(2, nonneg=True)
    return [cp.sum(shares) == 1, p == (q[:, None] * members / (q @ members)) @ shares]


def test_every_registered_set_is_held_against_the_solver() -> None:
    assert set(SETS) == set(CONVEX) | set(MOVES_NO_MASS), "add the ball of a new set to CONVEX"


@pytest.mark.parametrize("name", sorted({**CONVEX, **MOVES_NO_MASS}))
def test_value_and_weights_are_those_of_the_convex_problem(name: str) -> None:
    fields, ball = CONVEX.get(name) or (MOVES_NO_MASS[name], CONVEX["nominal"][1])
    for losses, weight in PROBLEMS:
        group = torch.arange(len(losses)) % 2 if "group" in SETS[name].needs else None
        ours = SETS[name](**fields).worst_case(losses, weight=weight, group=group)
        value, law = solve_worst_case(losses, weight, ball)
        spread = float(losses.max() - losses.min())
        assert float(ours.value) == pytest.approx(value, abs=1e-7 * spread)
        scaled = (losses.numpy() - losses.numpy().min()) / spread
        found = ours.weights.numpy() / len(losses)
        assert found.sum() == pytest.approx(1, abs=1e-12) and found.min() >= 0
        # laws of the same value may differ on ties: what both must agree on is the loss they put mass on
        assert float(found @ scaled) == pytest.approx(float(law @ scaled), abs=1e-7)
