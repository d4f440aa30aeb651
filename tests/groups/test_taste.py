"""The common taste: optimality of the fit, invariances, and the formulas of its rounds in a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from robustalign.groups.taste import (
    STRENGTHS,
    choose_ridge,
    coin_probability,
    fit_taste,
    halves,
    robust_taste,
    scaled,
    sigmoid,
)


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """300 pairs of 5 features and their weights; 9 in 10 follow a taste."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 5))
    wins = rng.random(300) < sigmoid(x @ np.array([2.0, -1.0, 0.0, 0.5, 0.0]))
    return np.where(wins[:, None], x, -x), rng.random(300)


def test_the_fit_is_where_scipy_finds_the_minimum(pairs) -> None:
    x, v = pairs
    found = minimize(
        lambda w: (v * np.logaddexp(0, -(x @ w))).sum() + 7.0 * (w @ w) / 2, np.zeros(5), tol=1e-12, method="BFGS"
    )
    np.testing.assert_allclose(fit_taste(x, 7.0, v), found.x, atol=1e-6)


def test_the_gradient_vanishes_at_the_fit(pairs) -> None:
    x, v = pairs
    w = fit_taste(x, 2.0, v)
    np.testing.assert_allclose(2.0 * w, x.T @ (v / (1 + np.exp(x @ w))), atol=1e-6)


def test_separable_pairs_with_hardly_a_ridge_converge() -> None:
    x = np.abs(np.random.default_rng(0).normal(size=(200, 3))) * 50
    w = fit_taste(x, 1e-3)
    assert np.isfinite(w).all() and (x @ w > 0).all()
    np.testing.assert_allclose(1e-3 * w, x.T @ sigmoid(-(x @ w)), atol=1e-4)


def test_swapping_the_replies_of_all_pairs_negates_the_taste(pairs) -> None:
    x, v = pairs
    np.testing.assert_allclose(fit_taste(-x, 3.0, v), -fit_taste(x, 3.0, v), atol=1e-9)


def test_a_weight_of_two_is_a_pair_twice(pairs) -> None:
    x, _ = pairs
    weight = np.where(np.arange(len(x)) < 50, 2.0, 1.0)
    np.testing.assert_allclose(fit_taste(x, 3.0, weight), fit_taste(np.concatenate([x, x[:50]]), 3.0), atol=1e-7)


def test_scaled_columns_have_rms_one_and_zeros_stay() -> None:
    x = np.array([[3.0, 0.0], [-4.0, 0.0]])
    np.testing.assert_allclose(np.sqrt((scaled(x) ** 2).mean(0)), [1.0, 0.0])


def test_the_rounds_are_those_of_a_plain_loop(pairs) -> None:
    x, _ = pairs
    w = fit_taste(x, 5.0)
    for _ in range(3):
        r = np.array([0.15 / (0.15 + 0.7 / (1 + np.exp(-(w @ row)))) for row in x])
        w = fit_taste(x, 5.0, 1 - r)
    found, coin = robust_taste(x, 5.0, doubt=0.3, rounds=3)
    np.testing.assert_allclose(found, w, atol=1e-6)
    np.testing.assert_allclose(coin, [0.15 / (0.15 + 0.7 / (1 + np.exp(-(w @ row)))) for row in x], atol=1e-6)


def test_coin_probability_at_its_limits() -> None:
    assert coin_probability(np.array([0.0, 800.0, -800.0]), 0.3) == pytest.approx([0.3, 0.15 / 0.85, 1.0])


def test_no_prompt_is_in_both_halves() -> None:
    prompt = np.random.default_rng(1).integers(0, 40, size=500)
    fold = halves(prompt)
    assert all(len(set(fold[prompt == p])) == 1 for p in np.unique(prompt))
    assert sum(fold[prompt == p][0] for p in np.unique(prompt)) == len(np.unique(prompt)) // 2


def test_noise_chooses_the_strongest_ridge_and_a_clear_taste_the_weakest() -> None:
    rng = np.random.default_rng(5)
    x, fold = rng.normal(size=(600, 20)), np.arange(600) % 2
    assert choose_ridge(x, fold) == STRENGTHS[-1]
    assert choose_ridge(np.where((x[:, 0] > 0)[:, None], x, -x), fold) == STRENGTHS[0]
