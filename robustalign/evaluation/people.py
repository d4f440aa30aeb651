"""What is measured where people chose: calibration against their votes, their own agreement, the worst tenth of them.

Every function takes held-out comparisons as arrays ``[N]``. ``unit`` numbers what a bootstrap draws, 0 to U - 1 (a
prompt, or an item), and ``often [D, U]`` is how often each unit counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from robustalign.shifts import Populations
from robustalign.shifts.distances import ItemVotes, expected

BINS = 10  # of confidence, equally wide, from 1/2 to 1
TENTH = 0.1
FEWEST = 10  # rows of a person, of which one half says who is among the worst and the other how bad they are
WORST_PEOPLE = "worst tenth of people"  # a target of the table of people
RELIABILITY = ("target", "bin", "share", "confidence", "agreement", "low", "high")


@dataclass(frozen=True)
class Votes:
    """Held-out comparisons of one split.

    ``share``: of the votes for the chosen reply, in [0, 1]; ``weight``: number of votes; ``member``: component that
    they belong to, -1 for none; ``item`` and ``first_share``: as in ``robustalign.shifts.shift.Rows``; ``person``: who
    judged, '' where the data do not say; ``unit``: see the module.
    """

    share: np.ndarray
    weight: np.ndarray
    member: np.ndarray
    item: np.ndarray
    first_share: np.ndarray
    person: np.ndarray
    unit: np.ndarray


def agreement(votes: Votes, shift: Populations, often: np.ndarray) -> dict[str, np.ndarray]:
    """How often one person agrees with another on the same item, in each population: ``{target: [D]}``.

    Both are drawn from the population; a tie agrees by half with everybody. It is no bound: a policy that always sides
    with the majority agrees with people more often than they with one another.
    """
    table = ItemVotes.of(votes.item, votes.first_share, votes.weight, votes.member, len(shift.components), votes.unit)
    names = {"nominal": None} | {name: name for name in shift.names}
    ceilings: dict[str, list[float]] = {name: [] for name in names}
    for counts in often:
        apart = table.disagreement(counts)
        for name, target in names.items():
            shares = shift.shares(target)
            ceilings[name].append(1 - expected(apart, shares, shares))
    return {name: np.array(values) for name, values in ceilings.items()}


@dataclass(frozen=True)
class Reliability:
    """Sums over bins of confidence, each ``[D, C, B]``: votes, their confidence, and those that agreed."""

    votes: np.ndarray
    confidence: np.ndarray
    agreed: np.ndarray

    def of(self, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``[D, B]`` of a population: share of its votes, and sums of confidence and agreement over it."""
        present = shares > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            each = shares[present][:, None] / self.votes.sum(-1, keepdims=True)[:, present]
        votes, confidence, agreed = (
            (each * part[:, present]).sum(1) for part in (self.votes, self.confidence, self.agreed)
        )
        return votes, confidence, agreed

    def error(self, shares: np.ndarray) -> np.ndarray:
        """Expected calibration error ``[D]``: sum over bins of |confidence - agreement|, by the votes in each (Guo et
        al. 2017, arXiv 1706.04599, Eq. 3)."""
        _, confidence, agreed = self.of(shares)
        return np.abs(confidence - agreed).sum(-1)


def reliability(margin: np.ndarray, beta: float, votes: Votes, components: int, often: np.ndarray) -> Reliability:
    """Confidence sigmoid(beta |h|) of the policy's preference against the share of votes that side with it.

    ``margin [N]`` is h, the chosen reply's log-ratio minus the rejected one's. Which reply was chosen plays no part but
    in the votes: confidence is in what the policy prefers. At h = 0 it is 1/2, and so is the agreement.
    """
    confidence = 1 / (1 + np.exp(-beta * np.abs(margin)))
    agreed = 0.5 + np.sign(margin) * (votes.share - 0.5)  # NaN stays NaN
    place = np.minimum(np.nan_to_num((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    present = votes.member >= 0
    cell = (votes.member * BINS + place)[present]
    unit, weight = votes.unit[present], votes.weight[present]

    def sums(values: np.ndarray) -> np.ndarray:
        counted = (np.bincount(cell, counts[unit] * values, components * BINS) for counts in often)
        return np.stack(list(counted)).reshape(len(often), components, BINS)

    return Reliability(sums(weight), sums(weight * confidence[present]), sums(weight * agreed[present]))


def reliability_table(reliability: Reliability, shift: Populations, level: float) -> pd.DataFrame:
    """``RELIABILITY``: mean confidence and agreement of every population's bins that hold votes, with intervals."""
    rows = []
    for name in ("nominal", *shift.names):
        share, confidence, agreed = reliability.of(shift.shares(None if name == "nominal" else name))
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = agreed / share
        for place in np.flatnonzero(share[0] > 0):
            low, high = spread(rate[:, place], level, 0.0, 1.0)
            mean = confidence[0, place] / share[0, place]
            rows.append((name, int(place), share[0, place], mean, rate[0, place], low, high))
    return pd.DataFrame(rows, columns=RELIABILITY)


def worst_tenth(value: np.ndarray, votes: Votes, better: int, draws: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """The mean of ``value [N]`` over the worst tenth of people, ``[1 + draws]``, and how many people were ranked.

    One half of a person's votes says whether they are among the worst, the other half what they are worth; then the
    halves change places, and the two means are averaged. So nobody looks bad by the bad luck that picked them. People
    with fewer than ``FEWEST`` rows are left out; draws resample people. No numbers where a tenth is less than a person.
    """
    named_person = (votes.person != "") & (votes.member >= 0)
    person, index, counts = np.unique(votes.person[named_person], return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    place = np.empty(len(index), dtype=int)
    place[order] = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    halves = []
    for half in (0, 1):
        weight = votes.weight[named_person] * (place % 2 == half)
        total = np.bincount(index, weight * value[named_person], len(person))
        with np.errstate(invalid="ignore", divide="ignore"):
            halves.append(total / np.bincount(index, weight, len(person)))
    means = np.stack(halves)[:, counts >= FEWEST]
    people = means.shape[1]
    if people * TENTH < 1:
        return np.full(1 + draws, np.nan), people
    rng = np.random.default_rng(seed)
    picked = np.concatenate([np.arange(people)[None], rng.integers(0, people, (draws, people))])
    first, second = means[0][picked], means[1][picked]
    return (_picked(first, second, better) + _picked(second, first, better)) / 2, people


def _picked(rank: np.ndarray, values: np.ndarray, better: int) -> np.ndarray:
    """The mean ``[D]`` of ``told [D, A]`` over the tenth that is worst in ``rank [D, A]``."""
    size = max(1, int(rank.shape[1] * TENTH))
    worst = np.argsort(better * rank, axis=1, kind="stable")[:, :size]
    return np.take_along_axis(values, worst, 1).mean(1)


def spread(draws: np.ndarray, confidence: float, least: float, most: float) -> tuple[float, float]:
    """``value -+ z sd`` of ``draws [1 + D]``, within bounds; for what resampling shifts, such as an absolute value."""
    finite = draws[1:][np.isfinite(draws[1:])]
    if len(finite) < 2 or not np.isfinite(draws[0]):
        return float("nan"), float("nan")
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(finite.std(ddof=1))
    return max(float(draws[0]) - half, least), min(float(draws[0]) + half, most)


def rows_of(values: Mapping[str, np.ndarray], metric: str, n: int, confidence: float) -> list[tuple]:
    """``(target, metric, value, low, high, n)`` of shares in [0, 1]."""
    rows = []
    for target, draws in values.items():
        low, high = spread(draws, confidence, 0.0, 1.0)
        rows.append((target, metric, float(draws[0]), low, high, n))
    return rows
