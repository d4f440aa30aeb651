"""The interval of a worst case, by simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustalign.evaluation.targets import interval
from robustalign.evaluation.worst import worst_interval


def groups(rng: np.random.Generator, rates: np.ndarray, n: int, draws: int) -> np.ndarray:
    """Accuracies ``[1 + draws, T]`` of ``n`` independent answers a group, and their bootstrap."""
    right = rng.binomial(n, rates)
    return np.concatenate([right[None], rng.binomial(n, right / n, (draws, len(rates)))]) / n


@pytest.mark.parametrize(
    "rates", [np.full(10, 0.7), np.linspace(0.55, 0.9, 10), np.r_[0.5, np.full(9, 0.8)], np.array([0.7])], ids=str
)
@pytest.mark.parametrize("better", [1, -1])
def test_it_covers_the_worst_truth_where_the_picked_one_alone_does_not(rates: np.ndarray, better: int) -> None:
    """400 data sets, 95 %: three standard errors below are .917."""
    rng = np.random.default_rng(0)
    values = rates if better > 0 else 1 - rates
    truth = values.min() if better > 0 else values.max()
    held, plain = [], []
    for _ in range(400):
        draws = groups(rng, values, 100, 300)
        low, high = worst_interval(draws, better, 0.95)
        held.append(low <= truth <= high)
        picked = draws[0].argmin() if better > 0 else draws[0].argmax()
        low, high = interval(draws[1:, picked], 0.95)
        plain.append(low <= truth <= high)
    assert np.mean(held) >= 0.917
    if np.ptp(rates) == 0 and len(rates) > 1:
        assert np.mean(plain) < 0.85, "the interval of the group that looks worst misses the truth"


def test_of_one_target_it_is_the_studentised_interval() -> None:
    draws = np.concatenate([[5.0], np.random.default_rng(1).normal(5, 2, 4000)])[:, None]
    low, high = worst_interval(draws, 1, 0.95)
    assert (low, high) == pytest.approx((5 - 1.96 * 2, 5 + 1.96 * 2), abs=0.25)
    assert worst_interval(draws, -1, 0.95) == pytest.approx((low, high))


def test_it_holds_the_value_and_is_nan_without_numbers() -> None:
    draws = np.random.default_rng(2).normal(size=(200, 4)) + np.arange(4)
    low, high = worst_interval(draws, 1, 0.9)
    assert low < draws[0].min() < high
    assert all(math.isnan(end) for end in worst_interval(np.where(draws == draws[0, 0], np.nan, draws), 1, 0.9))
    assert worst_interval(np.ones((50, 3)), 1, 0.9) == (1, 1)
