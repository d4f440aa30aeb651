"""Intervals against closed forms and simulated truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from robustalign.report import statistics
from robustalign.report.choose import confidence_radius, least_divergence


@pytest.mark.parametrize("freedom", [1, 2, 3, 4.5, 9, 30, 1e3])
def test_student_factor(freedom):
    expected = stats.t.ppf(0.975, freedom) / stats.norm.ppf(0.975)
    assert statistics.student_factor(freedom) == pytest.approx(expected, rel=1e-3)


def test_student_factor_of_many():
    assert statistics.student_factor(np.inf) == 1.0


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_draws_of_seeds_have_the_variance_of_their_mean(seeds):
    values = np.random.default_rng(0).normal(size=seeds)
    means = statistics.seed_weights(seeds, 40_000)[1:] @ values
    assert means.mean() == pytest.approx(values.mean(), abs=0.02)
    assert means.var() == pytest.approx(values.var(ddof=1) / seeds, rel=0.05)


def test_one_seed_is_always_itself():
    assert (statistics.seed_weights(1, 10) == 1).all()


def test_of_seeds_is_the_t_interval():
    values = np.array([0.3, 0.1, 0.25, 0.7])
    found = statistics.of_seeds(values)
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-3)


@pytest.mark.parametrize(("seed_spread", "prompt_spread"), [(0.1, 0.0), (0.0, 1.0), (0.1, 1.0)])
def test_intervals_hold_the_truth_as_often_as_they_say(seed_spread, prompt_spread):
    """Five seeds, sixty prompts, truth 0: whichever of the two scatters."""
    rng = np.random.default_rng(5)
    weights = statistics.prompt_weights(60, 400)
    normalised = weights / weights.sum(1, keepdims=True)
    hits, trials = 0, 500
    for _ in range(trials):
        cells = rng.normal(0, seed_spread, (5, 1)) + rng.normal(0, prompt_spread, 60) + rng.normal(0, 0.01, (5, 60))
        found = statistics.estimate(normalised @ cells.T, 60)
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / trials <= 0.98


def test_a_plain_bootstrap_of_three_seeds_would_be_too_sure():
    """The reason for the corrections, and that they work for three."""
    rng = np.random.default_rng(6)
    plain = corrected = 0
    for _ in range(500):
        values = rng.normal(size=3)
        draws = rng.choice(values, (400, 3)).mean(1)
        plain += np.quantile(draws, 0.025) <= 0 <= np.quantile(draws, 0.975)
        found = statistics.estimate(np.tile(values, (401, 1)), 500)
        corrected += found.low <= 0 <= found.high
    assert plain / 500 < 0.85
    assert 0.9 <= corrected / 500 <= 0.99


def test_missing_values_stay_missing():
    values = np.array([[0.1, np.nan], [0.2, np.nan]])
    found = statistics.estimate(values, 10)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.sign == 0


def test_beyond_a_curve():
    x = np.array([[0.0, 1.0, 2.0]])
    y = np.array([[0.0, 1.0, 0.5]])

    def at(px: float, py: float) -> float:
        return float(statistics.beyond(np.array([px]), np.array([py]), x, y)[0])

    assert at(0.5, 0.8) == pytest.approx(0.8 - 1.0)  # the curve reaches 1.0 at a larger x
    assert at(1.5, 0.8) == pytest.approx(0.8 - 0.75)  # between two corners
    assert at(2.0, 0.5) == pytest.approx(0.0)  # its end
    assert at(3.0, 0.6) == pytest.approx(0.6 - 0.5)  # beyond its end
    assert at(-1.0, 0.2) == pytest.approx(0.2 - 1.0)


def test_every_corner_of_a_curve_lies_on_or_below_it():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    for corner in range(6):
        assert (statistics.beyond(x[:, corner], y[:, corner], x, y) <= 1e-12).all()


def test_probability_of_improvement():
    ours, theirs = [np.array([1.0, 2.0, 3.0])], [np.array([0.0, 2.0, 2.5])]
    value, low, high = statistics.probability_of_improvement(ours, theirs)
    brute = np.mean([(a > b) + 0.5 * (a == b) for a in ours[0] for b in theirs[0]])
    assert value == pytest.approx(brute)
    assert low <= value <= high
    assert statistics.probability_of_improvement(ours, ours)[0] == 0.5


def test_interquartile_mean():
    tasks = [np.random.default_rng(i).normal(size=8) for i in range(3)]
    value, low, high = statistics.interquartile_mean(tasks)
    assert value == pytest.approx(stats.trim_mean(np.concatenate(tasks), 0.25))
    assert low < value < high


@pytest.mark.parametrize("mean", [0.2, 0.5, 0.9])
def test_least_divergence_of_two_losses(mean):
    """With losses 0 and 1 in equal numbers the weights are a coin, and its divergence is known."""
    losses = np.repeat([0.0, 1.0], 50)
    expected = mean * np.log(2 * mean) + (1 - mean) * np.log(2 * (1 - mean))
    assert least_divergence(losses, mean) == pytest.approx(expected, abs=1e-9)


def test_confidence_radius_is_the_chi_square_one():
    losses = np.random.default_rng(0).exponential(size=800)
    expected = stats.chi2.ppf(0.95, 1) / (2 * 2000)
    assert confidence_radius(losses, 2000, draws=800) == pytest.approx(expected, rel=0.2)


def test_an_interval_holds_its_estimate():
    """Also where the statistic is crooked: the least of two seeds."""
    means = np.array([-1.0, 0.2, 0.3, 0.4])
    found = statistics.from_draws(means, np.tile([0.1, 0.2], (4, 1)), 100)
    assert found.low <= found.value <= found.high
