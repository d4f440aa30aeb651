"""People with K tastes, found from several answers of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from robustalign.bounds import inside, number
from robustalign.groups.grouping import Grouping, Groups, PairData
from robustalign.groups.methods.column import named_column
from robustalign.groups.taste import choose_ridge, fit_taste, halves, scaled


@dataclass(frozen=True, kw_only=True)
class Annotators(Grouping):
    """EM over annotators with K linear tastes (EM-DPO's mixture, arXiv 2405.15065, on features of the reference).

    g_uk is proportional to eta_k times the product over the pairs i of annotator u of sigma(w_k . x_i); eta_k is the
    mean of g_uk over annotators, and w_k the ridge Bradley-Terry taste of all pairs with weights g_{u(i) k}. A pair's
    membership is its annotator's. The evidence is the log-likelihood of the same people's answers to prompts that were
    held out.

    Args:
        by: the column of annotator ids.
        k: tastes, >= 2.
        layers: see ``overlooked``.
        min_answers: annotators with fewer say nothing about tastes and get the shares eta; at least k must have more.
        across: a column whose values are held out together for the evidence (a debate, a topic); null: the prompts.
        rounds: of EM, >= 1.
        starts: random starts, of which the most likely is kept, >= 1.
        seed: of the starts.
    """

    name: ClassVar[str] = "annotators"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    by: str = "annotator"
    k: int = number(2, "[2, inf)")
    layers: list[int] = field(default_factory=lambda: [0], metadata=inside("[0, inf)"))
    min_answers: int = number(10, "[1, inf)")
    across: str | None = None
    rounds: int = number(30, "[1, inf)")
    starts: int = number(3, "[1, inf)")
    seed: int = 0

    def find(self, data: PairData) -> Groups:
        assert data.features is not None
        people, who = np.unique(named_column(data, "by", self.by), return_inverse=True)
        if self.k > len(people):
            raise ValueError(f"k: {self.k} tastes need as many people, column {self.by!r} has {len(people)}")
        enough = int((np.bincount(who) >= self.min_answers).sum())
        if enough < self.k:
            raise ValueError(
                f"min_answers: {enough} of {len(people)} people have {self.min_answers} answers; "
                f"{self.k} tastes need that of {self.k}"
            )
        x = scaled(data.features)
        held_out = data.prompt if self.across is None else named_column(data, "across", self.across)
        fold = halves(held_out)
        ridge = choose_ridge(x, fold)
        tastes = self._fit(x, who, ridge)
        order = np.argsort(-tastes.shares, kind="stable")
        membership = tastes.people(x, who, len(people), self.min_answers)[who][:, order]
        return Groups(
            names=tuple(f"taste {i + 1}" for i in range(self.k)),
            membership=membership,
            gain=self._gain(x, who, fold, ridge),
            unit=who,
            facts={"ridge": ridge, "people": len(people), "people_with_enough_answers": enough},
        )

    def _fit(self, x: np.ndarray, who: np.ndarray, ridge: float) -> Tastes:
        informative = (np.bincount(who) >= self.min_answers)[who]
        informative = informative if informative.any() else np.ones(len(who), dtype=bool)
        rng = np.random.default_rng(self.seed)
        fits = [
            fit_tastes(x[informative], who[informative], self.k, ridge, self.rounds, rng) for _ in range(self.starts)
        ]
        return max(fits, key=lambda tastes: tastes.log_likelihood)

    def _gain(self, x: np.ndarray, who: np.ndarray, fold: np.ndarray, ridge: float) -> np.ndarray:
        """``[N]``: log p(choice) with the annotator's tastes fitted on the other half, minus that of one taste."""
        gain = np.zeros(len(x))
        for half in (0, 1):
            fit_rows, held_out = fold != half, fold == half
            strength = ridge * float(fit_rows.mean())
            tastes = self._fit(x[fit_rows], who[fit_rows], strength)
            people = tastes.people(x[fit_rows], who[fit_rows], int(who.max()) + 1, self.min_answers // 2)
            one = fit_taste(x[fit_rows], strength)
            log_p = -np.logaddexp(0.0, -(x[held_out] @ tastes.w.T))
            mixed = np.logaddexp.reduce(np.log(np.maximum(people[who[held_out]], 1e-300)) + log_p, axis=1)
            gain[held_out] = mixed + np.logaddexp(0.0, -(x[held_out] @ one))
        return gain


@dataclass(frozen=True)
class Tastes:
    """K tastes ``w [K, D]``, their ``shares [K]``, and the log-likelihood of what they were fitted on."""

    w: np.ndarray
    shares: np.ndarray
    log_likelihood: float

    def people(self, x: np.ndarray, who: np.ndarray, count: int, min_answers: int) -> np.ndarray:
        """g ``[count, K]`` from pairs ``x [N, D]`` of people ``who [N]``; the shares where there are too few."""
        g, _ = _responsibilities(x, who, count, self.w, self.shares)
        g[np.bincount(who, minlength=count) < max(1, min_answers)] = self.shares
        return g


def fit_tastes(x: np.ndarray, who: np.ndarray, k: int, ridge: float, rounds: int, rng: np.random.Generator) -> Tastes:
    """K tastes by EM from random responsibilities; people without a pair in ``who`` do not count."""
    _, who = np.unique(who, return_inverse=True)
    count = int(who.max()) + 1
    g = rng.dirichlet(np.ones(k), size=count)
    w, total = np.zeros((k, x.shape[1])), -np.inf
    for _ in range(rounds):
        shares = g.mean(axis=0)
        w = np.stack([fit_taste(x, ridge, g[who, j], start=w[j]) for j in range(k)])
        before, (g, total) = total, _responsibilities(x, who, count, w, shares)
        if abs(total - before) <= 1e-6 * abs(total):
            break
    return Tastes(w, g.mean(axis=0), total)


def _responsibilities(
    x: np.ndarray, who: np.ndarray, count: int, w: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, float]:
    """g ``[count, K]``, and the log-likelihood sum over people of log sum_k eta_k prod_i sigma(w_k . x_i)."""
    log_p = -np.logaddexp(0.0, -(x @ w.T))
    sums = np.stack([np.bincount(who, column, minlength=count) for column in log_p.T], axis=1)
    joint = np.log(np.maximum(shares, 1e-300)) + sums
    each = np.logaddexp.reduce(joint, axis=1)
    return np.exp(joint - each[:, None]), float(each.sum())
