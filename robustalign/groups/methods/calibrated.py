"""Pseudo-annotators whose votes split as people's do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from robustalign.bounds import inside, number
from robustalign.groups.grouping import Grouping, Groups, PairData
from robustalign.groups.taste import choose_ridge, fit_taste, halves, scaled, sigmoid


@dataclass(frozen=True, kw_only=True)
class Calibrated(Grouping):
    """Heads fitted forward stagewise to vote shares (pairwise-calibrated rewards, arXiv 2506.06298), without ids.

    Head j is fitted to what the heads before it leave of the share p, clip(j p - votes so far, 0, 1), so that the share
    of heads that prefer chosen comes to p. A pair belongs to the heads that agree with its choice, in equal parts.

    Args:
        k: heads, >= 2.
        layers: see ``overlooked``.
    """

    name: ClassVar[str] = "calibrated"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "vote_share"})
    k: int = number(5, "[2, inf)")
    layers: list[int] = field(default_factory=lambda: [0], metadata=inside("[0, inf)"))

    def find(self, data: PairData) -> Groups:
        assert data.features is not None and data.vote_share is not None
        x, fold, p = scaled(data.features), halves(data.prompt), np.asarray(data.vote_share, dtype=np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            raise ValueError("method: a vote share is outside [0, 1]")
        ridge = choose_ridge(x, fold)
        agrees = (x @ fit_heads(x, p, self.k, ridge).T > 0).astype(np.float64)
        agrees[agrees.sum(axis=1) == 0] = 1.0
        membership = agrees / agrees.sum(axis=1, keepdims=True)
        order = np.argsort(-membership.mean(axis=0), kind="stable")
        return Groups(
            names=tuple(f"head {i + 1}" for i in order),
            membership=membership[:, order],
            gain=self._gain(x, p, fold, ridge),
            facts={"ridge": ridge},
        )

    def _gain(self, x: np.ndarray, p: np.ndarray, fold: np.ndarray, ridge: float) -> np.ndarray:
        gain = np.zeros(len(x))
        for half in (0, 1):
            fit_rows, held_out = fold != half, fold == half
            strength = ridge * float(fit_rows.mean())
            heads = fit_heads(x[fit_rows], p[fit_rows], self.k, strength)
            share = sigmoid(x[held_out] @ heads.T).mean(axis=1)
            one = sigmoid(x[held_out] @ fit_heads(x[fit_rows], p[fit_rows], 1, strength)[0])
            gain[held_out] = _share_likelihood(p[held_out], share) - _share_likelihood(p[held_out], one)
        return gain


def fit_heads(x: np.ndarray, share: np.ndarray, k: int, ridge: float) -> np.ndarray:
    """Heads ``[k, D]`` for pairs ``x [N, D]`` with vote shares ``[N]``, one after the other."""
    heads: list[np.ndarray] = []
    votes = np.zeros(len(x))
    for j in range(1, k + 1):
        residual = np.clip(j * share - votes, 0.0, 1.0)
        head = fit_taste(np.concatenate([x, -x]), ridge, np.concatenate([residual, 1 - residual]))
        votes += x @ head > 0
        heads.append(head)
    return np.stack(heads)


def _share_likelihood(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    q = np.clip(q, 1e-12, 1 - 1e-12)
    return p * np.log(q) + (1 - p) * np.log(1 - q)
