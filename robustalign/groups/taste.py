"""A common taste: Bradley-Terry's model of choices, linear in the features of a pair; numpy, fp64.

A pair is x = phi(chosen) - phi(rejected), and P(chosen is preferred) = sigma(w . x). There is no intercept: swapping
the two replies must swap the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STRENGTHS = (30.0, 100.0, 300.0, 1000.0)  # candidates for the ridge; two folds choose one
NEWTON_STEPS = 50


def scaled(features: np.ndarray) -> np.ndarray:
    """Columns ``[N, D]`` divided by their root mean square; a column of zeros stays."""
    rms = np.sqrt(np.mean(np.square(features, dtype=np.float64), axis=0))
    return features / np.where(rms > 0, rms, 1.0)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) without overflow."""
    return np.exp(-np.logaddexp(0.0, -z))


def fit_taste(
    x: np.ndarray, ridge: float, weight: np.ndarray | None = None, start: np.ndarray | None = None
) -> np.ndarray:
    """The ridge Bradley-Terry taste: argmin over w of sum_i v_i log(1 + exp(-w . x_i)) + ridge |w|^2 / 2, by Newton.

    Args:
        x: ``[N, D]``.
        ridge: > 0, on the scale of a sum over pairs.
        weight: v ``[N]`` >= 0, default 1.
        start: ``[D]``, default 0.

    Returns:
        ``[D]``; its gradient is below 1e-8 of the ridge's and the pairs' together.
    """
    v = np.ones(len(x)) if weight is None else weight
    w = np.zeros(x.shape[1]) if start is None else start.copy()
    for _ in range(NEWTON_STEPS):
        p = sigmoid(-(x @ w))  # the probability that the taste contradicts each choice
        gradient = ridge * w - x.T @ (v * p)
        if np.abs(gradient).max(initial=0.0) <= 1e-8 * (1.0 + np.abs(x.T @ v).max(initial=0.0)):
            break
        hessian = (x * (v * p * (1 - p))[:, None]).T @ x
        hessian[np.diag_indices_from(hessian)] += ridge
        w = _descend(x, v, ridge, w, np.linalg.solve(hessian, gradient))
    return w


def _descend(x: np.ndarray, v: np.ndarray, ridge: float, w: np.ndarray, step: np.ndarray) -> np.ndarray:
    """The Newton step, halved until the objective does not rise."""

    def objective(w: np.ndarray) -> float:
        return float(v @ np.logaddexp(0.0, -(x @ w)) + ridge * (w @ w) / 2)

    before, size = objective(w), 1.0
    while size > 1e-6 and objective(w - size * step) > before:
        size /= 2
    return w - size * step


def halves(prompt: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which of two folds each pair is in, ``[N]`` of 0 and 1: a prompt is never in both."""
    ids, index = np.unique(prompt, return_inverse=True)
    fold = np.random.default_rng([seed, 11]).permutation(len(ids)) % 2
    return fold[index]


def choose_ridge(x: np.ndarray, fold: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> float:
    """The ridge whose taste of one half explains the other half's choices best, by log-likelihood.

    A half has half the pairs, so that each is fitted with half the ridge.
    """

    def score(ridge: float) -> float:
        total = 0.0
        for k in (0, 1):
            w = fit_taste(x[fold != k], ridge * float(np.mean(fold != k)))
            total -= float(np.logaddexp(0.0, -(x[fold == k] @ w)).sum())
        return total

    return max(strengths, key=score)


def robust_taste(x: np.ndarray, ridge: float, doubt: float, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """The taste of most people, where a share ``doubt`` of the pairs may be a toss of a coin, by EM.

    r_i = (doubt / 2) / (doubt / 2 + (1 - doubt) sigma(w . x_i)) is the probability that pair i was one; w is fitted
    anew with weights 1 - r_i, ``rounds`` times.

    Returns:
        w ``[D]`` and r ``[N]``.
    """
    w = fit_taste(x, ridge)
    for _ in range(rounds):
        w = fit_taste(x, ridge, 1.0 - coin_probability(x @ w, doubt), start=w)
    return w, coin_probability(x @ w, doubt)


def coin_probability(margin: np.ndarray, doubt: float) -> np.ndarray:
    """r ``[N]`` of :func:`robust_taste` for margins w . x ``[N]``."""
    return (doubt / 2) / (doubt / 2 + (1 - doubt) * sigmoid(margin))
