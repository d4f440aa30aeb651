"""What a metric is: its name, unit, direction and bounds, how it is computed and how it is averaged over prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustalign.shifts.shift import Judge

WHOLE = "any"  # the component, and the target, of a metric that is the same for every population


@dataclass(frozen=True)
class Cell:
    """``total [P]`` and ``count [P]``: sums and numbers of one metric's values for one component, prompt by prompt."""

    total: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class Replies:
    """``R`` replies of one policy to each of a split's ``P`` prompts, and what metrics may ask about them."""

    texts: Sequence[Sequence[str]]
    """``[P][R]``: the replies without special tokens."""
    groups: np.ndarray
    """``[P]``: the group of each prompt, '' where the data have none."""
    components: Sequence[Judge]
    """Whose opinions the shift mixes; empty where nobody can judge a new reply."""
    scores: Mapping[str, np.ndarray]
    """``[P, R]`` raw scores by objective; empty without components."""
    kl: np.ndarray
    """``[P, R]``: KL(policy || reference) along each reply, nats."""


def ratio_of_totals(total: np.ndarray, count: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean over all values of all prompts: a prompt counts by the number of its values.

    Args:
        total: ``[..., P]`` sums of a prompt's values.
        count: ``[..., P]`` how many values were summed.
        weights: ``[D, P]`` how often each prompt counts.

    Returns:
        ``[D, ...]``; nan where no prompt has a value.
    """
    rows = count.reshape(-1, count.shape[-1])
    alike = len(rows) > 0 and bool((rows == rows[0]).all())  # as where every seed has the same prompts
    counts = (weights @ rows[0]).reshape(-1, *[1] * (count.ndim - 1)) if alike else _weighted(weights, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        return _weighted(weights, total) / counts


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``[D, ...]``: sums over the prompts of ``values [..., P]`` under ``weights [D, P]``."""
    return (weights @ values.reshape(-1, values.shape[-1]).T).reshape(len(weights), *values.shape[:-1])


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What all metrics have in common."""

    name: str
    """What files, the tracking store and command lines call it."""
    title: str
    """What pictures call it."""
    unit: str
    """Of its values, for axes."""
    better: int
    """1 where more is better, -1 where less is."""
    low: float = -math.inf
    """The least value it can have; intervals end there."""
    high: float = math.inf
    """The largest value it can have."""
    rank: int = 100
    """Its place in reports, the smallest first; a summary shows the first in numbers."""
    compared: bool = True
    """Whether reports compare methods by it; the distance from the reference, say, is not a merit."""
    over_prompts: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] = ratio_of_totals
    """``(total [..., P], count [..., P], weights [D, P]) -> [D, ...]``: its value for a sample of prompts."""

    def __post_init__(self) -> None:
        if self.better not in (1, -1):
            raise ValueError(f"better: {self.better} is neither 1 (more is better) nor -1 (less is)")
        if not self.low < self.high:
            raise ValueError(f"low: {self.low} is not below high, {self.high}")

    def __str__(self) -> str:
        return self.name

    def worse(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The worse of two values, each of the same shape ``[...]``; nan where one is."""
        return np.minimum(a, b) if self.better > 0 else np.maximum(a, b)

    @property
    def direction(self) -> str:
        """Which values are better, in words."""
        return "more is better" if self.better > 0 else "less is better"


@dataclass(frozen=True, kw_only=True)
class PairMetric(Metric):
    """A metric of held-out pairs: a function of the margin that a policy gives to each."""

    of_margins: Callable[[np.ndarray, float], np.ndarray]
    """``(margin [N], beta) -> [N]``: a pair's value. The margin is the chosen reply's log-ratio to the reference minus
    the rejected reply's, nats. A margin of nan must give nan."""

    def of_votes(self, margin: np.ndarray, beta: float, share: np.ndarray | None) -> np.ndarray:
        """``[N]``: a pair's value in the mean over votes, of which ``share [N]`` are for the chosen reply and the rest
        for the other, whose margin is the negative one; without a share all are for the chosen reply."""
        value = self.of_margins(margin, beta)
        return value if share is None else share * value + (1 - share) * self.of_margins(-margin, beta)


@dataclass(frozen=True, kw_only=True)
class ReplyMetric(Metric):
    """A metric of replies that a policy generates."""

    of_replies: Callable[[Replies], Mapping[str, Cell]]
    """Cells by component, or one cell for ``WHOLE``; empty where it cannot be computed."""
