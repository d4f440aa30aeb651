"""The log-linear class: its population, its optima, and the statistics of the rates."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from robustalign.theory.log_linear import LogLinear, Sample, fit
from robustalign.theory.rates import Settings, measure, slopes

TRUTH = torch.tensor([1.0, -2.0], dtype=torch.float64)
MODEL = LogLinear(truth=TRUTH, beta=0.7)


def test_population_is_the_limit_of_samples() -> None:
    """Second moments and label frequency of 40,000 pairs; E x x^T = 2 / (d + 2) I for psi uniform in the ball."""
    population, sample = MODEL.population(2**16), MODEL.sample(40_000, seed=0)
    for data, tolerance in ((population, 1e-3), (sample, 0.02)):
        second = torch.einsum("n,ni,nj->ij", data.law, data.features, data.features)
        torch.testing.assert_close(second, 0.5 * torch.eye(2, dtype=torch.float64), rtol=0, atol=tolerance)
        assert float(data.law.sum()) == pytest.approx(1.0)
        assert float(data.features.norm(dim=1).max()) <= 2.0
    means = [data.law @ data.features for data in (population, sample)]
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=0.02)


def test_dpo_recovers_the_truth_of_the_population() -> None:
    torch.testing.assert_close(fit(MODEL.dpo(), MODEL.population(512)), TRUTH, rtol=1e-6, atol=0)


def test_wdpo_is_the_mean_plus_the_root_penalty() -> None:
    """Value by hand, gradient by differences."""
    data = Sample(torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64), torch.tensor([0.25, 0.75]).double())
    theta, objective = torch.tensor([0.6, 0.9], dtype=torch.float64), MODEL.wdpo(0.2)

    def by_hand(t: np.ndarray) -> float:
        margins = 0.7 * data.features.numpy() @ t
        norms = (0.7 / (1 + np.exp(margins))) ** 2 * (t @ t)
        law = data.law.numpy()
        return float(law @ np.log1p(np.exp(-margins)) + 0.2 * math.sqrt(law @ norms))

    moved = theta.clone().requires_grad_()
    value = objective(moved, data)
    value.backward()
    assert float(value.detach()) == pytest.approx(by_hand(theta.numpy()), rel=1e-12)
    for i, unit in enumerate(np.eye(2)):
        h = 1e-6
        slope = (by_hand(theta.numpy() + h * unit) - by_hand(theta.numpy() - h * unit)) / (2 * h)
        assert float(moved.grad[i]) == pytest.approx(slope, rel=1e-7)


@pytest.mark.parametrize("name", ["kldpo", "wdpo"])
def test_robust_optima_are_stationary_and_shrink_with_the_radius(name: str) -> None:
    data = MODEL.sample(400, seed=1)
    norms = []
    for radius in (0.0, 0.02, 0.1):
        objective = getattr(MODEL, name)(radius)
        theta = fit(objective, data)
        best = float(objective(theta, data))
        for move in 1e-2 * torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64):
            assert float(objective(theta + move, data)) > best
        norms.append(float(theta.norm()))
    assert norms[0] == pytest.approx(float(fit(MODEL.dpo(), data).norm()), rel=1e-5)
    assert norms[0] > norms[1] > norms[2]


def test_slopes_of_exact_power_laws() -> None:
    sizes, rng = np.array([100, 200, 400, 800]), np.random.default_rng(0)
    noise = np.abs(rng.normal(size=(30, 4)))
    rows = [("dpo", "", n, seed, 2.0 * n**-0.5) for n in sizes for seed in range(30)]
    found = slopes(pd.DataFrame(rows, columns=["method", "radius", "n", "seed", "error"]))
    assert found[["slope", "low", "high"]].to_numpy()[0] == pytest.approx([-0.5] * 3, rel=1e-9)
    rows = [("dpo", "", n, seed, n**-0.5 * noise[seed, i]) for i, n in enumerate(sizes) for seed in range(30)]
    noisy = slopes(pd.DataFrame(rows, columns=["method", "radius", "n", "seed", "error"])).iloc[0]
    # the log of a mean of 30 squares of normals has the deviation sqrt(2 / 30) / 2 about
    exact = math.sqrt(1 / 60) / (math.log(2) * math.sqrt(5))
    assert (noisy["high"] - noisy["low"]) / (2 * 1.96) == pytest.approx(exact, rel=0.3)
    assert noisy["low"] < -0.5 < noisy["high"]


def test_errors_fall_and_the_worst_loss_stays_above_the_best() -> None:
    table = measure(Settings(dimension=2, sizes=(64, 1024), seeds=4, points=2**12))
    mean = table.groupby(["method", "radius", "n"])["error"].mean().unstack()
    assert len(mean) == 5 and (mean[1024] < 0.6 * mean[64]).all()
    assert (table["worst"] >= table["best"] - 1e-9).all()
