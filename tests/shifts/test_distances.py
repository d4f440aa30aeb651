"""Distances between populations against plain loops, an independent solver and simulations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from robustalign.shifts import distances

RNG = np.random.default_rng(0)


def disagreement(*rows) -> np.ndarray:
    return distances.ItemVotes.of(*rows).disagreement()


def test_kl_of_shares() -> None:
    assert distances.kl(np.array([0.5, 0.5]), np.array([0.9, 0.1])) == pytest.approx(
        0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5)
    )
    assert distances.kl(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == np.inf
    assert distances.kl(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == 0


def test_disagreement_is_that_of_a_loop_over_all_pairs_of_votes() -> None:
    n, groups = 60, 3
    item, member = RNG.integers(0, 12, n), RNG.integers(-1, groups, n)
    share = RNG.choice([0.0, 0.5, 1.0], n)
    found = disagreement(item, share, np.ones(n), member, groups)
    for g, h in itertools.product(range(groups), repeat=2):
        told = [
            share[i] * (1 - share[j]) + share[j] * (1 - share[i])
            for i, j in itertools.permutations(range(n), 2)
            if item[i] == item[j] and member[i] == g and member[j] == h
        ]
        assert found[g, h] == pytest.approx(np.mean(told))


def test_a_row_of_many_votes_counts_as_its_votes_one_by_one() -> None:
    """Item 0: 4 of 5 votes of group 0 for the first reply, 1 of 2 of group 1; item 1: one vote each."""
    rows = ([0, 0, 1, 1], [0.8, 0.5, 1.0, 0.0], [5.0, 2.0, 1.0, 1.0], [0, 1, 0, 1])
    together = disagreement(*map(np.array, rows), 2)
    votes = [(0, 1, 0)] * 4 + [(0, 0, 0)] + [(0, 1, 1), (0, 0, 1), (1, 1, 0), (1, 0, 1)]
    item, share, member = (np.array(column) for column in zip(*votes, strict=True))
    apart = disagreement(item, share.astype(float), np.ones(len(votes)), member, 2)
    assert together == pytest.approx(apart)
    assert together[0, 0] == pytest.approx(2 * 4 / 20)


def test_groups_without_common_items_have_no_disagreement() -> None:
    found = disagreement(np.array([0, 0, 1]), np.array([1.0, 0, 1]), np.ones(3), np.array([0, 0, 1]), 2)
    assert found[0, 0] == 1 and np.isnan(found[0, 1]) and np.isnan(found[1, 1])
    assert distances.expected(found, np.array([1.0, 0]), np.array([0.5, 0.5])) == 1
    assert np.isnan(distances.expected(found, np.array([0, 1.0]), np.array([1.0, 0])))


def test_the_logistic_fit_is_a_general_solvers() -> None:
    x = RNG.normal(size=(40, 3))
    a, b = RNG.random(40), RNG.random(40)

    def loss(w: np.ndarray) -> float:
        z = x @ w
        up, down = a * 20 / a.sum(), b * 20 / b.sum()
        return float((up * np.logaddexp(0, -z) + down * np.logaddexp(0, z)).sum() + w @ w / 2)

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9}).x
    assert distances.fit_logistic(x, a, b, ridge=1.0) == pytest.approx(best, abs=1e-5)


def test_separability_of_equal_prompts_is_chance_and_of_other_prompts_is_not() -> None:
    """Normal features shifted by d along one direction: the best AUC is Phi(d / sqrt 2)."""
    covered, reached = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(200, 5))
        own = np.repeat([1.0, 0.0], 100)
        _, low, high = distances.separability(x, own, 1 - own, seed=seed)
        covered.append(low <= 0.5 <= high)
        x[:100, 0] += 2.0
        value, low, high = distances.separability(x, own, 1 - own, seed=seed)
        assert low < value < high and low > 0.7
        reached.append(value)
    assert np.mean(reached) == pytest.approx(0.9214, abs=0.02)
    assert np.mean(covered) >= 0.75, "95 % intervals at fixed scores"


def test_separability_of_one_population_from_itself_is_a_half() -> None:
    x, law = RNG.normal(size=(50, 4)), RNG.random(50)
    assert distances.separability(x, law, law)[0] == pytest.approx(0.5, abs=1e-6)


def test_separability_without_prompts_of_one_is_nan() -> None:
    assert np.isnan(distances.separability(np.ones((3, 2)), np.ones(3), np.zeros(3))).all()


def test_the_auc_is_the_share_of_pairs_won() -> None:
    score = RNG.integers(0, 5, 20).astype(float)
    p, q = RNG.random((2, 20)), RNG.random((2, 20))
    won = (score[:, None] > score) + 0.5 * (score[:, None] == score)
    loop = [sum(p[d, i] * q[d, j] * won[i, j] for i, j in itertools.product(range(20), repeat=2)) for d in range(2)]
    assert distances._wins(score, p, q) == pytest.approx(loop)
