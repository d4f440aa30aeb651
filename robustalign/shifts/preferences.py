"""A shift between scorers: preference models over scored candidates.

A *component* is one labeller: an objective's people (``population``), or a mixture of scores
(``convex``, ``geometric``). A population is a weighting of components, so what a policy is worth to a
population is the weighted mean of what it is worth to each, without sampling noise in the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robustalign.config import HUMAN, PairsConfig, ShiftConfig
from robustalign.errors import ConfigError
from robustalign.shifts.pairs import Pairs
from robustalign.shifts.shift import Rows, Shift

Scores = Mapping[str, np.ndarray]  # objective -> raw scores, any shape, the same for all


@dataclass(frozen=True)
class Standards:
    """Statistics of the training split's candidates, by which every split is standardised.

    ``raw``: objective -> training scores, flat. ``unit``: objectives whose scores lie in [0, 1].
    """

    raw: Mapping[str, np.ndarray]
    unit: frozenset[str] = frozenset()

    def z(self, name: str, scores: Scores) -> np.ndarray:
        """Standardised scores of an objective; a leading ``-`` negates it.

        Raises:
            ConfigError: the objective is constant on the training split.
        """
        base = name.removeprefix("-")
        train = self.raw[base]
        spread = float(train.std())
        if spread == 0.0:
            raise ConfigError("shift.objectives", f"{base!r} is the same for every training candidate")
        z = (scores[base] - train.mean()) / spread
        return -z if name.startswith("-") else z

    def share(self, name: str, scores: Scores) -> np.ndarray:
        """Scores in [0, 1]: as they are, or through the training split's empirical distribution."""
        if name in self.unit:
            return np.clip(scores[name], 0.0, 1.0)
        train = np.sort(self.raw[name])
        return np.searchsorted(train, scores[name], side="right") / len(train)


@dataclass(frozen=True)
class Component:
    """One labeller: ``utility(scores)`` has the scores' shape; ``group``: the prompts it may label, '' for all;
    ``temperature``: of its Bradley-Terry labels, over that of the rule."""

    name: str
    objectives: tuple[str, ...]
    weights: tuple[float, ...]
    combine: str
    floor: float
    standards: Standards
    group: str = ""
    temperature: float = 1.0

    def utility(self, scores: Scores) -> np.ndarray:
        """r*_convex = sum_k w_k z_k; r*_geometric = prod_k r_k^w_k, standardised (arXiv 2502.01930, section 7.1)."""
        if self.combine == "geometric":
            mixed = self._geometric(scores)
            train = self._geometric(self.standards.raw)
            return (mixed - train.mean()) / max(float(train.std()), 1e-12)
        terms = zip(self.objectives, self.weights, strict=True)
        return sum(w * self.standards.z(name, scores) for name, w in terms if w) + np.zeros_like(
            next(iter(scores.values())), dtype=np.float64
        )

    def _geometric(self, scores: Scores) -> np.ndarray:
        shares = (self.standards.share(name, scores) for name in self.objectives)
        logs = (w * np.log(np.maximum(s, self.floor)) for s, w in zip(shares, self.weights, strict=True))
        return np.exp(sum(logs))


@dataclass(frozen=True)
class ScorerShift(Shift):
    """People as objectives: each component labels the same candidates by a score of its own."""

    config: ShiftConfig
    standards: Standards

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.config.targets)

    def _component(self, name: str, mix: Sequence[float], group: str = "", temperature: float = 1.0) -> Component:
        c = self.config
        return Component(name, tuple(c.objectives), tuple(mix), c.combine, c.floor, self.standards, group, temperature)

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """``population``: one per objective. Otherwise the nominal mixture, then one per target."""
        c = self.config
        if c.combine != "population":
            mixtures = {"nominal": c.nominal, **c.targets}
            return tuple(self._component(name, mix) for name, mix in mixtures.items())
        groups = {"false": [""] * len(c.objectives), "tag": c.objectives, "natural": c.groups}[c.visible]
        unit = np.eye(len(c.objectives)).tolist()
        heats = c.temperatures or [1.0] * len(c.objectives)
        people = zip(self._people(), unit, groups, heats, strict=True)
        return tuple(self._component(name, row, group, heat) for name, row, group, heat in people)

    def _people(self) -> list[str]:
        """Names of the groups: their objectives, with the prompts' group where an objective stands more than once."""
        c = self.config
        if len(set(c.objectives)) == len(c.objectives):
            return list(c.objectives)
        return [f"{objective} of {group}" for objective, group in zip(c.objectives, c.groups, strict=True)]

    def shares(self, target: str | None = None) -> np.ndarray:
        """Weights over ``components`` of a target population; None is the nominal one."""
        c = self.config
        if c.combine == "population":
            return np.array(c.nominal if target is None else c.targets[target])
        index = 0 if target is None else 1 + self.names.index(target)
        return np.eye(len(self.components))[index]

    @property
    def judges(self) -> tuple[Component, ...]:
        """Nobody can say what people would have chosen of a new reply."""
        return () if HUMAN in self.config.objectives else self.components

    def pure(self, target: str) -> bool:
        return max(self.config.targets[target]) == 1

    def coordinate(self, target: str) -> float:
        """Total variation between the target's weights and the nominal's, in [0, 1]."""
        return float(np.abs(np.array(self.config.targets[target]) - np.array(self.config.nominal)).sum() / 2)

    def pairs(self, rows: Rows, component: int, rule: PairsConfig, *, per_prompt: int, seed: int) -> Pairs:
        """What a component makes of a split's candidates (``draw_pairs``)."""
        table = rows.table
        texts, groups = table["replies"][:], table["group"][:]
        labeller = self.components[component]
        return draw_pairs(labeller, component, rows.scores, texts, groups, rule, per_prompt=per_prompt, seed=seed)

    def distances(self, rows: Mapping[str, Rows], rule: PairsConfig) -> dict[str, list[float]]:
        """``flip_rate`` and ``kl`` of every target, over the training candidates."""
        scores = rows["train"].scores
        return {
            "flip_rate": [self.flip_rate(target, scores) for target in self.names],
            "kl": [self.kl(target, scores, rule) for target in self.names],
        }

    def kl(self, target: str, scores: Scores, pairs: PairsConfig) -> float:
        """KL(target || nominal) in nats: over annotator shares, or the mean over label distributions.

        NaN where it does not exist: labels that are a deterministic function of a mixture of scores.
        """
        if self.config.combine == "population":
            t, n = self.shares(target), self.shares()
            with np.errstate(divide="ignore", invalid="ignore"):
                return float(np.where(t > 0, t * np.log(t / n), 0.0).sum())
        if pairs.rule != "bradley_terry":
            return float("nan")
        p, q = (_label_probability(self._mixture(name), scores, pairs.temperature) for name in (target, None))
        return float(np.mean(_bernoulli_kl(p, q) + _bernoulli_kl(1 - p, 1 - q)))

    def flip_rate(self, target: str, scores: Scores) -> float:
        """Share of candidate pairs (first against second) whose order differs between target and nominal.

        For people: the smallest share of annotators that must change to get from the nominal to the
        target, times how often the ones who come disagree with the ones who go.
        """
        gaps = [component.utility(scores) for component in self.components]
        order = np.stack([np.sign(u[:, 0] - u[:, 1]) for u in gaps])
        disagree = np.array([[np.mean(a * b < 0) for b in order] for a in order])
        move = self.shares(target) - self.shares()
        leave, come = np.maximum(-move, 0), np.maximum(move, 0)
        return float(leave @ disagree @ come / come.sum()) if come.sum() else 0.0

    def _mixture(self, target: str | None) -> Component:
        return self.components[int(np.argmax(self.shares(target)))]


def _label_probability(component: Component, scores: Scores, temperature: float) -> np.ndarray:
    utility = component.utility(scores)
    return 1.0 / (1.0 + np.exp(-(utility[:, 0] - utility[:, 1]) / temperature))


def _bernoulli_kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300)), 0.0)


def draw_pairs(
    component: Component,
    annotator: int,
    scores: Scores,
    texts: Sequence[Sequence[str]],
    groups: Sequence[str],
    rule: PairsConfig,
    *,
    per_prompt: int,
    seed: int,
) -> Pairs:
    """Pairs that one labeller makes of candidates ``[P, n]``, ``per_prompt`` draws a prompt.

    Two calls with one ``seed`` look at the same candidates, whoever labels, so that populations differ by
    their preferences alone. Ties, gaps of at most ``rule.min_gap``, identical replies and repeated pairs
    are dropped and counted.
    """
    utility = component.utility(scores)
    prompts, n = utility.shape
    rng = np.random.default_rng(seed)
    order = rng.random((prompts, per_prompt, n)).argsort(-1)
    coin = rng.random((prompts, per_prompt))
    rows = np.arange(prompts)[:, None]
    if rule.rule == "bradley_terry":
        first, second = order[..., 0], order[..., 1]
        gap = utility[rows, first] - utility[rows, second]
        wins = coin < 1.0 / (1.0 + np.exp(-gap / (rule.temperature * component.temperature)))
        chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
        gap = np.where(wins, gap, -gap)
    else:
        offered = order[..., : rule.m if rule.rule == "best_worst" else n]
        values = np.take_along_axis(np.broadcast_to(utility[:, None], order.shape), offered, -1)
        chosen = np.take_along_axis(offered, values.argmax(-1)[..., None], -1)[..., 0]
        rejected = np.take_along_axis(offered, values.argmin(-1)[..., None], -1)[..., 0]
        gap = values.max(-1) - values.min(-1)
    return _keep_informative(chosen, rejected, gap, annotator, component.group, texts, groups, rule.min_gap)


def _keep_informative(
    chosen: np.ndarray,
    rejected: np.ndarray,
    gap: np.ndarray,
    annotator: int,
    group: str,
    texts: Sequence[Sequence[str]],
    groups: Sequence[str],
    min_gap: float,
) -> Pairs:
    rows: list[tuple[int, int, int, float]] = []
    dropped = dict.fromkeys(("tie", "small gap", "identical replies", "repeated"), 0)
    for p in range(len(chosen)):
        if group and groups[p] != group:
            continue
        texts_so_far: set[tuple[str, str]] = set()
        for c, r, g in zip(chosen[p].tolist(), rejected[p].tolist(), gap[p].tolist(), strict=True):
            words = (texts[p][c], texts[p][r])
            if g == 0:
                dropped["tie"] += 1
            elif abs(g) <= min_gap:
                dropped["small gap"] += 1
            elif words[0] == words[1]:
                dropped["identical replies"] += 1
            elif words in texts_so_far:
                dropped["repeated"] += 1
            else:
                texts_so_far.add(words)
                rows.append((p, c, r, g))
    prompt, chosen_column, rejected_column = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3).T
    return Pairs(
        prompt=prompt,
        chosen=chosen_column,
        rejected=rejected_column,
        gap=np.array([row[3] for row in rows], dtype=np.float64),
        annotator=np.full(len(rows), annotator),
        dropped=dropped,
    )
