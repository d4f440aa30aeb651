"""Paired comparisons by the bootstrap, as functions of arrays.

Every run of a setting is measured on the same held-out prompts, and run ``s`` of one method shares its pairs and data
order with run ``s`` of another. So a draw resamples prompts and seeds, once and for all policies, and a difference is
taken within the draw. Arrays of values are ``[1 + D, S]``: row 0 is the sample itself, the other rows are ``D`` draws
of the prompts, and the columns are seeds, which ``estimate`` resamples.

Seeds are few, and the plain bootstrap of few is too sure. Two corrections: a draw takes one seed fewer than there are,
which makes the variance of the mean right; and the percentile interval is widened by Student's factor, at the degrees
of freedom that Satterthwaite gives to the sum of the two sources of variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from robustalign.evaluation.targets import interval, resample_weights

CONFIDENCE = 0.95
NORMAL = 1e4  # degrees of freedom from which Student's distribution is taken for the normal one


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, and how many seeds and prompts stand behind it."""

    value: float
    low: float
    high: float
    seeds: int
    prompts: int
    freedom: float = math.inf
    """Degrees of freedom of the interval's width, by Satterthwaite."""

    @property
    def known(self) -> bool:
        """Whether the value is a number."""
        return math.isfinite(self.value)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def p(self) -> float:
        """The two-sided p-value of a true value of zero; 1 without an interval or with one of no width.

        The arm of the interval that points to zero stands for Student's quantile times a standard error, so that the
        p-value is below 5 % exactly where the interval leaves zero out.
        """
        arm = self.value - self.low if self.value > 0 else self.high - self.value
        if not arm > 0:
            return 1.0
        return student_tails(abs(self.value) / arm * student_quantile(self.freedom), self.freedom)

    def picked(self, low: float, high: float) -> Estimate:
        """The estimate of a worst case: with the interval that picking asks for, as wide as its seeds are few."""
        if not self.known:
            return self
        wider = student_factor(self.freedom)
        low, high = (self.value + (end - self.value) * wider for end in (min(low, self.value), max(high, self.value)))
        return replace(self, low=low, high=high)

    def turned(self) -> Estimate:
        """The estimate of minus the quantity; zero keeps its sign."""
        return replace(self, value=0.0 - self.value, low=0.0 - self.high, high=0.0 - self.low)

    def within(self, low: float, high: float) -> Estimate:
        """With an interval that ends at the bounds of the quantity."""
        return replace(self, low=max(self.low, min(low, self.value)), high=min(self.high, max(high, self.value)))

    def columns(self, name: str = "") -> dict[str, float]:
        """Its columns in a table: ``name``, ``name_low`` and ``name_high``, or ``value``, ``low`` and ``high``."""
        prefix = f"{name}_" if name else ""
        return {name or "value": self.value, f"{prefix}low": self.low, f"{prefix}high": self.high}

    @staticmethod
    def of_columns(row: Mapping[str, Any], name: str, seeds: int, prompts: int = 0) -> Estimate:
        """What :meth:`columns` put into a row."""
        return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], seeds, prompts)

    @staticmethod
    def missing(seeds: int = 0, prompts: int = 0) -> Estimate:
        """What is unknown: of no runs, or of runs whose value is not a number."""
        return Estimate(math.nan, math.nan, math.nan, seeds, prompts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979): the i-th smallest of m times m - i + 1, made monotone.

    Rejecting those below 5 % keeps the chance of even one false rejection below 5 %, however they depend on each other.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min((len(p_values) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted


def prompt_weights(prompts: int, draws: int, seed: int = 0) -> np.ndarray:
    """``[1 + D, P]``: how often each prompt counts; row 0 is the sample itself."""
    return resample_weights(prompts, draws, seed)


@lru_cache(maxsize=32)
def seed_weights(seeds: int, draws: int, seed: int = 1) -> np.ndarray:
    """``[1 + D, S]``, rows sum to 1: each draw takes ``S - 1`` seeds with replacement; row 0 is the mean.

    Their mean has the variance ``s^2 / S`` of the mean of ``S`` seeds, which draws of ``S`` understate by
    ``(S - 1) / S``.
    """
    even = np.full((1 + draws, seeds), 1.0 / seeds)
    if seeds > 1:
        rng = np.random.default_rng(seed)
        even[1:] = rng.multinomial(seeds - 1, even[0], size=draws) / (seeds - 1)
    return even


def estimate(values: np.ndarray, prompts: int, confidence: float = CONFIDENCE) -> Estimate:
    """The mean over seeds of ``values [1 + D, S]`` with its interval over seeds and prompts."""
    return from_draws(seed_means(values), values, prompts, confidence)


def seed_means(values: np.ndarray) -> np.ndarray:
    """``[1 + D]``: the mean over (resampled) seeds of ``values [1 + D, S]``."""
    return np.einsum("ds,ds->d", values, seed_weights(values.shape[1], len(values) - 1))


def from_draws(means: np.ndarray, values: np.ndarray, prompts: int, confidence: float = CONFIDENCE) -> Estimate:
    """The interval of ``means [1 + D]``; ``values [1 + D, S]`` show how much of its variance is the seeds'.

    It always contains the estimate, which the percentiles of a function that is far from linear need not.
    """
    seeds = values.shape[1]
    if not np.isfinite(means[0]):
        return Estimate.missing(seeds, prompts)
    low, high = interval(means[1:], confidence)
    freedom, centre = degrees_of_freedom(means, values, prompts), float(means[0])
    wider = student_factor(freedom, confidence)
    below, above = min(low - centre, 0.0), max(high - centre, 0.0)
    return Estimate(centre, centre + below * wider, centre + above * wider, seeds, prompts, freedom)


def of_seeds(values: np.ndarray, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of ``values [S]`` that no prompt has a part in, with Student's interval; none from one seed."""
    seeds, mean = len(values), float(values.mean())
    if seeds < 2:
        return Estimate(mean, math.nan, math.nan, seeds, 0)
    half = float(values.std(ddof=1)) / math.sqrt(seeds) * student_quantile(seeds - 1, confidence)
    return Estimate(mean, mean - half, mean + half, seeds, 0, seeds - 1)


def degrees_of_freedom(means: np.ndarray, values: np.ndarray, prompts: int) -> float:
    """Satterthwaite's, for a variance that is the seeds' (``S - 1`` degrees) plus the prompts' (``P - 1``)."""
    seeds = values.shape[1]
    total = float(np.nanvar(means[1:]))
    of_seeds = float(np.var(values[0], ddof=1)) / seeds if seeds > 1 else 0.0
    of_prompts = max(total - of_seeds, 0.0)
    spread = of_seeds**2 / max(seeds - 1, 1) + of_prompts**2 / max(prompts - 1, 1)
    return (of_seeds + of_prompts) ** 2 / spread if spread > 0 else math.inf


def student_factor(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Student's quantile over the normal one: 1 for infinitely many degrees of freedom."""
    return student_quantile(freedom, confidence) / NormalDist().inv_cdf((1 + confidence) / 2)


@lru_cache(maxsize=4096)
def student_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """The half-width of Student's central interval of a given mass.

    With ``t = sqrt(df) tan(a)`` the density is proportional to ``cos(a)^(df - 1)`` on (-pi/2, pi/2).
    """
    if freedom > NORMAL:
        return NormalDist().inv_cdf((1 + confidence) / 2)
    angle = np.linspace(0.0, np.pi / 2, 4001)
    density = np.cos(angle) ** (freedom - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(confidence, area / area[-1], angle)))


def student_tails(t: float, freedom: float) -> float:
    """The mass of Student's distribution outside [-t, t], for t >= 0."""
    if freedom > NORMAL:
        return math.erfc(t / math.sqrt(2))
    start = math.atan(t / math.sqrt(freedom))
    tail, whole = (_mass(low, freedom) for low in (start, 0.0))
    return tail / whole


def _mass(low: float, freedom: float) -> float:
    """The integral of ``cos(a)^(df - 1)`` from ``low`` to pi/2."""
    angle = np.linspace(low, np.pi / 2, 4001)
    return float(np.trapezoid(np.cos(angle).clip(min=0.0) ** (freedom - 1), angle))


def beyond(x: np.ndarray, y: np.ndarray, curve_x: np.ndarray, curve_y: np.ndarray) -> np.ndarray:
    """How far a point lies above a curve, where more is better on both axes.

    ``x, y [R]``: the point in R draws. ``curve_x, curve_y [R, K]``: the corners of the curve, in order. The
    point is compared with the best ``y`` that the curve has at no less than ``x``; beyond its largest ``x``,
    with the ``y`` there. nan in draws where the point or any corner is nan.
    """
    broken = np.isnan(x) | np.isnan(y) | np.isnan(curve_x).any(1) | np.isnan(curve_y).any(1)
    x, y = x[:, None], y[:, None]
    reached = np.where(curve_x >= x, curve_y, -np.inf).max(1)
    x0, x1, y0, y1 = curve_x[:, :-1], curve_x[:, 1:], curve_y[:, :-1], curve_y[:, 1:]
    crosses = (x0 < x) != (x1 < x)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = y0 + (x - x0) / (x1 - x0) * (y1 - y0)
    best = np.maximum(reached, np.where(crosses, at, -np.inf).max(1, initial=-np.inf))
    end = np.take_along_axis(curve_y, curve_x.argmax(1)[:, None], 1)[:, 0]
    return np.where(broken, np.nan, y[:, 0] - np.where(np.isfinite(best), best, end))


def probability_of_improvement(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], draws: int = 2000, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """How likely a run of ours is better than a run of theirs, averaged over tasks, with its interval.

    ``ours``, ``theirs``: for each task the values of the seeds, more is better; ties count half. Seeds are
    resampled within each task (Agarwal et al. 2021, arXiv 2108.13264). nan if any value is.
    """
    if not all(np.isfinite(task).all() for task in (*ours, *theirs)):
        return math.nan, math.nan, math.nan

    rng = np.random.default_rng(2)
    value, draws_of_tasks = [], []
    for a, b in zip(ours, theirs, strict=True):
        better = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
        often_a, often_b = (_counts(_picked(each, draws, rng), len(each)) for each in (a, b))
        value.append(float(better.mean()))
        draws_of_tasks.append(np.einsum("ds,ds->d", often_a @ better, often_b) / better.size)
    return (float(np.mean(value)), *interval(np.mean(draws_of_tasks, axis=0), confidence))


def interquartile_mean(
    tasks: Sequence[np.ndarray], draws: int = 2000, confidence: float = CONFIDENCE
) -> tuple[float, float, float]:
    """The mean of the middle half of all runs of all tasks, with its interval over seeds within tasks.

    nan if any value is.
    """
    if not all(np.isfinite(task).all() for task in tasks):
        return math.nan, math.nan, math.nan
    rng = np.random.default_rng(3)
    draws_of_tasks = np.concatenate([_resampled(task, draws, rng) for task in tasks], axis=1)
    return (float(_middle(np.concatenate(tasks))), *interval(_middle(draws_of_tasks), confidence))


def _resampled(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    return values[_picked(values, draws, rng)]


def _picked(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """``[draws, S]``: which of the ``S`` values each draw has, with replacement."""
    return rng.integers(len(values), size=(draws, len(values)))


def _counts(picked: np.ndarray, size: int) -> np.ndarray:
    """``[draws, size]``: how often each draw has each value."""
    flat = (picked + size * np.arange(len(picked))[:, None]).ravel()
    return np.bincount(flat, minlength=size * len(picked)).reshape(-1, size).astype(float)


def _middle(values: np.ndarray) -> np.ndarray:
    """The mean along the last axis without the smallest and the largest quarter, each rounded down."""
    cut = values.shape[-1] // 4
    ordered = np.sort(values, axis=-1)
    return ordered[..., cut : values.shape[-1] - cut].mean(-1)
