"""How far two populations of people are apart: in who they are, in what they prefer, and in what they ask.

A shift of people shows in labels that disagree on the same items; a shift of prompts in features that tell whose
prompts they are. Either can be there without the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RIDGE = 1.0  # on logits of features whose rows have a mean square norm of 1
FOLDS = 5


def kl(law: np.ndarray, nominal: np.ndarray) -> float:
    """KL(law || nominal) of shares ``[C]``, nats; inf where the law has people that the nominal population has not."""
    inside = law > 0
    if (nominal[inside] == 0).any():
        return float("inf")
    return float((law[inside] * np.log(law[inside] / nominal[inside])).sum())


@dataclass(frozen=True)
class ItemVotes:
    """Sums over the votes on each item that was judged twice: ``votes`` and ``first`` (those for its first reply),
    ``[I, C]`` by group; what a vote has with itself, ``own_pairs`` and ``own_against [I, C]``; ``unit [I]``."""

    votes: np.ndarray
    first: np.ndarray
    own_pairs: np.ndarray
    own_against: np.ndarray
    unit: np.ndarray

    @staticmethod
    def of(
        item: np.ndarray,
        share: np.ndarray,
        weight: np.ndarray,
        member: np.ndarray,
        groups: int,
        unit: np.ndarray | None = None,
    ) -> ItemVotes:
        """The sums of ``N`` rows.

        Args:
            item: ``[N]`` int, what was judged.
            share: ``[N]`` in [0, 1], the votes for the item's first reply; 1/2 is a tie, which half agrees with
                everybody.
            weight: ``[N]`` >= 0, how many votes a row stands for; the votes of a row with more than one are for one
                reply or the other.
            member: ``[N]`` group of each row, -1 for none.
            groups: ``C``.
            unit: ``[N]`` int, what a bootstrap draws; an item lies in one. By default the item.
        """
        _, index = np.unique(item, return_inverse=True)
        unit = index if unit is None else unit
        counts = weight * (member >= 0)
        comparable = (counts > 0) & (np.bincount(index, counts)[index] > 1)
        _, first_row, item = np.unique(item[comparable], return_index=True, return_inverse=True)
        share, weight, member = share[comparable], weight[comparable], member[comparable]
        size = len(first_row)

        def per_item(values: np.ndarray) -> np.ndarray:
            return np.bincount(item * groups + member, values, size * groups).reshape(size, groups)

        many = weight > 1
        return ItemVotes(
            votes=per_item(weight),
            first=per_item(weight * share),
            own_pairs=per_item(np.where(many, weight, weight**2)),
            own_against=per_item(np.where(many, 0.0, weight**2 * 2 * share * (1 - share))),
            unit=unit[comparable][first_row],
        )

    def disagreement(self, often: np.ndarray | None = None) -> np.ndarray:
        """How often a vote of one group and another vote of a second group disagree on the same item, ``[C, C]``.

        ``often [U]``: how often each unit counts. nan where no item was judged by both (or twice by the same) group.
        """
        times = np.ones((len(self.unit), 1)) if often is None else often[self.unit][:, None]
        cross = (times * self.first).T @ (self.votes - self.first)
        against = cross + cross.T - np.diag((times * self.own_against).sum(0))
        pairs = (times * self.votes).T @ self.votes - np.diag((times * self.own_pairs).sum(0))
        return np.divide(against, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 1e-9)


def expected(apart: np.ndarray, law: np.ndarray, nominal: np.ndarray) -> float:
    """The mean of ``apart [C, C]`` over one person of each population, given that their groups judged common items."""
    mass = np.outer(law, nominal) * np.isfinite(apart)
    return float((mass * np.nan_to_num(apart)).sum() / mass.sum()) if mass.sum() > 0 else float("nan")


def separability(
    features: np.ndarray,
    law: np.ndarray,
    nominal: np.ndarray,
    *,
    draws: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """How well features tell the prompts of one population from those of another: AUC with an interval.

    A ridge logistic regression is fitted on four fifths of the prompts and scores the last fifth; the AUC compares
    prompts of the same fifth. 1/2 is what features that know nothing reach, and less is noise.

    Args:
        features: ``[U, D]`` of distinct prompts.
        law: ``[U]`` >= 0, how often a population asks each.
        nominal: ``[U]`` >= 0, the same of the other.
        draws: bootstrap resamples of the prompts, at fixed scores.
        confidence: of the interval.
        seed: of folds and resamples.

    Returns:
        AUC, low, high; nan where a fold never holds prompts of both.
    """
    rng = np.random.default_rng(seed)
    x = _standardised(features[(law > 0) | (nominal > 0)])
    p, q = (w[(law > 0) | (nominal > 0)] for w in (law, nominal))
    fold = rng.permutation(len(x)) % FOLDS
    wins, pairs = np.zeros(draws + 1), np.zeros(draws + 1)
    for k in range(min(FOLDS, len(x))):
        inside, out = fold != k, fold == k
        if not (p[inside].any() and q[inside].any()):
            continue
        score = x[out] @ fit_logistic(x[inside], p[inside], q[inside])
        counts = rng.multinomial(out.sum(), np.full(out.sum(), 1 / out.sum()), size=draws)
        often = np.concatenate([np.ones((1, out.sum())), counts])
        wins += _wins(score, often * p[out], often * q[out])
        pairs += (often @ p[out]) * (often @ q[out])
    with np.errstate(invalid="ignore", divide="ignore"):
        areas = wins / pairs
    tail = (1 - confidence) / 2
    finite = areas[1:][np.isfinite(areas[1:])]
    if not np.isfinite(areas[0]) or not len(finite):
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(areas[0]), float(low), float(high)


def _standardised(features: np.ndarray) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1.0)
    return np.column_stack([x / np.sqrt(x.shape[1]), np.ones(len(x))])


def fit_logistic(x: np.ndarray, positive: np.ndarray, negative: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """``[D]``: argmin of sum_i n (a_i log(1 + e^-z_i) + b_i log(1 + e^z_i)) + ridge |w|^2 / 2, z = x w, by Newton.

    ``positive`` and ``negative`` ``[n]`` are scaled so that a and b each sum to 1/2: classes weigh the same.
    """
    a = positive * (len(x) / positive.sum() / 2)
    b = negative * (len(x) / negative.sum() / 2)
    w = np.zeros(x.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        gradient = x.T @ (b * chance - a * (1 - chance)) + ridge * w
        curvature = (x * ((a + b) * chance * (1 - chance))[:, None]).T @ x + ridge * np.eye(len(w))
        step = np.linalg.solve(curvature, gradient)
        w -= step
        if np.abs(step).max() < 1e-9:
            break
    return w


def _wins(score: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """``[D]``: mass of pairs in which the positive scores higher, ties half; ``positive``, ``negative [D, m]``."""
    _, rank = np.unique(score, return_inverse=True)
    ranks = int(rank.max(initial=-1)) + 1
    sums = np.zeros((len(score), ranks))
    sums[np.arange(len(score)), rank] = 1
    up, down = positive @ sums, negative @ sums
    return (up * (np.cumsum(down, 1) - down / 2)).sum(1)
