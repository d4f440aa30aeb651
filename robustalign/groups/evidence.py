"""Whether there is reason to believe in groups that nobody labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robustalign.groups.grouping import Groups

LEVEL = 1.96  # standard errors of a 95 % interval
MOST_VALUES = 50  # of a column that groups are compared with


@dataclass(frozen=True)
class Agreement:
    """Agreement of the groups with a column that was not used to find them."""

    column: str
    rand: float
    """Adjusted Rand index of each pair's likeliest group with the column; 0: chance, 1: the same partition."""
    auc: float
    """How well the last group's score finds the column's rarest value; .5: chance; NaN with more than two values."""
    precision: float
    """Share of the rarest value in the last group; NaN with more than two values."""
    recall: float
    """Share of the rarest value's pairs that are in the last group; NaN with more than two values."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for groups, as a run and its report show it."""

    names: tuple[str, ...]
    shares: tuple[float, ...]
    gain: float
    """Held-out log-likelihood of a choice minus that under one group, nats per pair; NaN: there is none."""
    low: float
    high: float
    """The gain's 95 % interval, over prompts or people."""
    doubts: tuple[str, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Evidence:
        """From the plain values of ``asdict``."""
        rows = {name: tuple(saved[name]) for name in ("names", "shares", "doubts")}
        agreement = tuple(Agreement(**part) for part in saved["agreement"])
        return cls(**{**saved, **rows, "agreement": agreement})

    @property
    def believable(self) -> bool:
        """Whether the gain's interval is above 0 and there is no reason for doubt."""
        return self.low > 0 and not self.doubts

    @property
    def sentence(self) -> str:
        """One sentence for readers."""
        if len(self.names) == 1:
            return "Everybody is one group."
        if np.isnan(self.gain):
            return "These groups have no likelihood by which they could be believed or doubted."
        interval = f"[{self.low:+.4f}, {self.high:+.4f}]"
        text = f"held-out log-likelihood {self.gain:+.4f} nats a pair {interval} over one group"
        if self.low <= 0:
            return f"There is no reason to believe in these groups: {text}."
        if self.doubts:
            return f"There is structure but reason to doubt that it is people: {text}; {'; '.join(self.doubts)}."
        return f"There is reason to believe in these groups: {text}."


def weigh_evidence(groups: Groups, prompt: np.ndarray, columns: Mapping[str, np.ndarray]) -> Evidence:
    """The evidence for groups of pairs with these prompts ``[N]`` and columns; the
    columns are compared with the groups.
    """
    gain, low, high = _interval(groups.gain, prompt if groups.unit is None else groups.unit)
    return Evidence(
        names=groups.names,
        shares=tuple(float(s) for s in groups.membership.mean(axis=0)),
        gain=gain,
        low=low,
        high=high,
        doubts=groups.doubts,
        agreement=tuple(_agreement(groups, name, column) for name, column in columns.items() if _compared(column)),
        facts=dict(groups.facts),
    )


def _interval(gain: np.ndarray | None, unit: np.ndarray) -> tuple[float, float, float]:
    """Mean, and its interval by the spread of the sums over units (cluster-robust standard error)."""
    if gain is None:
        return (float("nan"),) * 3
    inside = np.isfinite(gain)
    values, (_, ids) = gain[inside], np.unique(unit[inside], return_inverse=True)
    mean = float(values.mean())
    sums = np.bincount(ids, values - mean)
    error = float(np.sqrt(np.square(sums).sum() * len(sums) / max(1, len(sums) - 1)) / len(values))
    return mean, mean - LEVEL * error, mean + LEVEL * error


def _compared(column: np.ndarray) -> bool:
    return column.dtype.kind not in "f" and 2 <= len(np.unique(column)) <= MOST_VALUES


def _agreement(groups: Groups, name: str, column: np.ndarray) -> Agreement:
    values, ids = np.unique(column, return_inverse=True)
    group = groups.membership.argmax(axis=1)
    nan = float("nan")
    rand = adjusted_rand(group, ids)
    if len(values) != 2 or len(groups.names) < 2:
        return Agreement(name, rand, nan, nan, nan)
    rare = ids == np.bincount(ids).argmin()
    last = group == len(groups.names) - 1
    score = groups.membership[:, -1] if groups.score is None else groups.score
    precision = float(rare[last].mean()) if last.any() else nan
    return Agreement(name, rand, area_under_curve(score, rare), precision, float(last[rare].mean()))


def area_under_curve(score: np.ndarray, positive: np.ndarray) -> float:
    """P(score of a positive > score of a negative), ties half (Mann and Whitney), of ``[N]`` and bool ``[N]``."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    n = int(positive.sum())
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def adjusted_rand(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) of two partitions, integer ids ``[N]`` each."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1.0)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    expected = first * second / pairs(np.array([float(len(a))]))
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)
