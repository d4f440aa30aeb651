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


@pytest.mark.parametrize("freedom", [1, 2.5, 4, 30, 2e4])
@pytest.mark.parametrize("t", [0.0, 0.7, 2.0, 9.0])
def test_student_tails(t, freedom):
    assert statistics.student_tails(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=2e-3)


def test_p_values_of_seeds_are_those_of_the_t_test():
    values = np.array([0.3, 0.1, 0.25, 0.7])
    assert statistics.of_seeds(values).p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-3)
    assert statistics.of_seeds(-values).p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, rel=1e-3)


def test_a_p_value_is_below_five_percent_where_the_interval_leaves_zero_out():
    rng = np.random.default_rng(3)
    for shift in np.linspace(-1.2, 1.2, 25):
        found = statistics.estimate(shift + rng.normal(size=(401, 4)) / 4, 50)
        assert (found.p < 0.05) == (found.sign != 0)


@pytest.mark.parametrize(
    "estimate",
    [
        statistics.Estimate.missing(),
        statistics.Estimate(0.3, np.nan, np.nan, 1, 0),  # one seed
        statistics.Estimate(0.3, 0.3, 0.3, 5, 100),  # nothing scatters
        statistics.Estimate(0.0, -0.1, 0.1, 5, 100),
    ],
)
def test_nothing_is_shown_without_an_interval(estimate):
    assert estimate.p == 1.0


def test_p_values_of_null_effects_are_uniform():
    rng = np.random.default_rng(4)
    found = [statistics.of_seeds(rng.normal(size=5)).p for _ in range(1500)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_holm_errs_in_one_family_of_twenty():
    """At most 5 % of families of 10 null effects have a false rejection; without correction 40 %."""
    rng = np.random.default_rng(5)
    families = rng.uniform(size=(2000, 10))
    wrong = np.mean([min(statistics.holm(list(family))) < 0.05 for family in families])
    assert wrong < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.mean(families.min(1) < 0.05) > 0.35


def test_an_estimate_turned_and_bounded():
    e = statistics.Estimate(0.2, -0.1, 0.4, 3, 50, 7.0)
    assert e.turned() == statistics.Estimate(-0.2, -0.4, 0.1, 3, 50, 7.0) and e.turned().p == e.p
    assert e.within(0.0, 0.3) == statistics.Estimate(0.2, 0.0, 0.3, 3, 50, 7.0)
    assert statistics.Estimate.of_columns(e.columns("x"), "x", 3, 50).columns() == e.columns()


def test_what_is_not_a_number_is_never_better_or_worse():
    nan, number = [np.array([1.0, np.nan])], [np.array([0.0, 2.0])]
    for ours, theirs in ((nan, number), (number, nan)):
        assert np.isnan(statistics.probability_of_improvement(ours, theirs)).all()
    assert np.isnan(statistics.interquartile_mean(nan)).all()
    curve = np.array([[0.0, 1.0, np.nan]])
    assert np.isnan(statistics.beyond(np.array([0.5]), np.array([0.8]), curve, np.array([[0.0, 1.0, 2.0]]))).all()
