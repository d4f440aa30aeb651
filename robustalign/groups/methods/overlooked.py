"""The pairs that the common taste does not explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from robustalign.bounds import inside, number
from robustalign.groups.grouping import Grouping, Groups, PairData, one_hot
from robustalign.groups.people import persons_differ
from robustalign.groups.taste import choose_ridge, fit_taste, halves, robust_taste, scaled, sigmoid

REVERSED = 0.4
"""Reversal from which the overlooked look like mislabelled pairs: a neglected minority was measured at .22 to .40 (the
latter at a share of 40 %), flipped labels of an objective that the features see at .48 to 1.04 (docs/groups.md)."""
SCALES = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)


@dataclass(frozen=True, kw_only=True)
class Overlooked(Grouping):
    """Two groups, ``common`` and ``overlooked``: a linear taste is fitted to all pairs, robustly, and a pair is
    overlooked where that taste gives its choice a margin w . x below ``threshold`` (ours).

    The taste is a ridge Bradley-Terry model of features of the frozen reference, which cannot fit single pairs as a
    trained policy does. Its evidence compares it, on prompts that it was not fitted on, with one in which a share of
    the pairs is a toss of a coin. Whoever wants something else and draws pairs by that contradicts the common taste
    where it is undecided; a flipped label contradicts it anywhere. So *reversal*, the median margin of contradicted
    pairs over the median margin of all, is low for a minority and near 1 for noise. It doubts too much rather than too
    little: a minority that wants the opposite, or that answers pairs which others drew, reverses as noise does.

    Args:
        layers: of the reference's hidden states whose means over a reply's tokens are its features, side by side; 0 is
            the input embeddings.
        doubt: share of pairs that may be a toss of a coin in the robust fit, in (0, 1).
        rounds: of its EM, >= 0.
        threshold: margin below which a pair is overlooked, in nats; 1: the taste is less than 73 % sure of the choice.
        soft: membership r sigma(-w . x), the probability of a toss that contradicts the taste, instead of 0 or 1.
        person: column of annotator ids; where the pairs have it, persons must differ in their overlooked share.
    """

    name: ClassVar[str] = "overlooked"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    layers: list[int] = field(default_factory=lambda: [0], metadata=inside("[0, inf)"))
    doubt: float = number(0.3, "(0, 1)")
    rounds: int = number(10, "[0, inf)")
    threshold: float = 1.0
    soft: bool = False
    person: str = "annotator"

    def find(self, data: PairData) -> Groups:
        assert data.features is not None
        x, fold = scaled(data.features), halves(data.prompt)
        ridge = choose_ridge(x, fold)
        w, coin = robust_taste(x, ridge, self.doubt, self.rounds)
        margin = x @ w
        below = margin < self.threshold
        gain, held_out = self._held_out(x, fold, ridge)
        contradicted = held_out < 0
        typical = float(np.median(np.abs(held_out)))
        reversal = float(np.median(-held_out[contradicted])) / typical if contradicted.any() and typical else 0.0
        return Groups(
            names=("common", "overlooked"),
            membership=_soft(margin, coin) if self.soft else one_hot(below.astype(int), 2),
            score=-margin,
            gain=gain,
            doubts=(*_reversed(reversal), *_persons(below, data, self.person)),
            facts={"ridge": ridge, "reversal": reversal, "accuracy": float(np.mean(held_out > 0))},
        )

    def _held_out(self, x: np.ndarray, fold: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
        """Gain over one taste and the robust taste's margin, ``[N]`` each, of pairs whose prompts were not seen.

        A half's margins come from the taste of the other half, and what maps them to probabilities (a scale, and a
        share of coins) from the other half's margins.
        """
        one, robust, gain = np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x))
        for k in (0, 1):
            fit_rows, held_out = fold != k, fold == k
            strength = ridge * float(fit_rows.mean())
            one[held_out] = x[held_out] @ fit_taste(x[fit_rows], strength)
            robust[held_out] = x[held_out] @ robust_taste(x[fit_rows], strength, self.doubt, self.rounds)[0]
        for k in (0, 1):
            fit_rows, held_out = fold != k, fold == k
            gain[held_out] = _fitted(robust[fit_rows], robust[held_out], SHARES) - _fitted(
                one[fit_rows], one[held_out], (0.0,)
            )
        return gain, robust


def _soft(margin: np.ndarray, coin: np.ndarray) -> np.ndarray:
    """Membership ``[N, 2]``; the second is the probability that the pair was a toss whose outcome contradicts the
    taste.
    """
    contradicted = coin * sigmoid(-margin)
    return np.stack([1 - contradicted, contradicted], axis=1)


def _fitted(fit_margins: np.ndarray, held_out_margins: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Log-likelihood ``[M]`` of choices with ``held_out_margins``, by the scale and the share of coins that fit
    ``fit_margins`` best.
    """
    grid = [(scale, share) for scale in SCALES for share in shares]
    scale, share = max(grid, key=lambda g: _log_likelihood(g[0] * fit_margins, g[1]).sum())
    return _log_likelihood(scale * held_out_margins, share)


def _log_likelihood(margin: np.ndarray, coin: float) -> np.ndarray:
    """log((1 - coin) sigma(margin) + coin / 2), ``[N]``."""
    if coin == 0.0:
        return -np.logaddexp(0.0, -margin)
    return np.log((1 - coin) * sigmoid(margin) + coin / 2)


def _reversed(reversal: float) -> tuple[str, ...]:
    if reversal < REVERSED:
        return ()
    return (
        f"they contradict the common taste where it is sure (reversal {reversal:.2f}, a minority is below {REVERSED}): "
        "flipped labels, or people who want the opposite",
    )


def _persons(overlooked: np.ndarray, data: PairData, column: str) -> tuple[str, ...]:
    if column not in data.columns or persons_differ(overlooked, data.columns[column], data.prompt):
        return ()
    return (f"no {column} has more of them than another, on two halves of the prompts: noise rather than people",)
