"""Per-prompt results, their summaries over populations, and intervals.

A *cell* holds one component's numbers per prompt: sums and counts. A population's value is the weighted
mean of its components' ratios of totals; the bootstrap resamples prompts, the same ones for every
component, and so keeps what a prompt does to all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from robustalign.shifts import Populations

WHOLE = "any"  # the component of a metric that no population changes, and its target
LOWER_IS_BETTER = frozenset({"loss", "kl"})
COLUMNS = ("control", "split", "step", "target", "coordinate", "metric", "value", "low", "high", "n")


@dataclass(frozen=True)
class Cell:
    """``total [P]`` and ``count [P]`` of one metric of one component over a split's prompts."""

    total: np.ndarray
    count: np.ndarray


Cells = Mapping[str, Mapping[str, Cell]]  # metric -> component -> cell


def evaluate_targets(
    cells: Cells,
    shift: Populations,
    *,
    control: str,
    split: str,
    step: int,
    draws: int,
    confidence: float,
    seed: int = 0,
) -> pd.DataFrame:
    """The long table of a split: every target's metrics, and the summary over targets, with intervals.

    Summary targets: ``nominal`` (the training population), ``worst`` (the worst of the targets) and ``area``
    (the mean over the targets' coordinate range, by the trapezoid rule). ``n`` counts prompts with data.
    """
    rows = []
    for metric, components in cells.items():
        values = target_draws(components, shift, metric, draws, seed)
        coordinates = {name: shift.coordinate(name) for name in shift.names} | {"nominal": 0.0}
        n = int(np.any([cell.count > 0 for cell in components.values()], axis=0).sum())
        for target, draws_of in values.items():
            low, high = interval(draws_of[1:], confidence)
            where = coordinates.get(target, float("nan"))
            rows.append((control, split, step, target, where, metric, draws_of[0], low, high, n))
    return pd.DataFrame(rows, columns=COLUMNS)


def target_draws(
    components: Mapping[str, Cell], shift: Populations, metric: str, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """``{target: [1 + draws]}``: the value of each target and of the summary, then its bootstrap draws."""
    prompts = len(next(iter(components.values())).total)
    resamples = resample_weights(prompts, draws, seed)
    if WHOLE in components:
        return {WHOLE: _ratio(components[WHOLE], resamples)}
    ratios = np.stack([_ratio(components[c.name], resamples) for c in shift.components])
    values = {name: _mixed(shift.shares(name), ratios) for name in shift.names}
    return values | summary(values, shift, metric) | {"nominal": _mixed(shift.shares(), ratios)}


def summary(values: Mapping[str, np.ndarray], shift: Populations, metric: str) -> dict[str, np.ndarray]:
    """``worst`` and ``area`` of draws ``[D]`` per target; empty where there are no targets."""
    if not values:
        return {}
    stacked = np.stack([values[name] for name in shift.names])
    worst = stacked.max(0) if metric in LOWER_IS_BETTER else stacked.min(0)
    where = np.array([shift.coordinate(name) for name in shift.names])
    order = np.argsort(where, kind="stable")
    width = where.max() - where.min()
    area = np.trapezoid(stacked[order], where[order], axis=0) / width if width > 0 else stacked.mean(0)
    return {"worst": worst, "area": area}


@lru_cache(maxsize=4)
def resample_weights(prompts: int, draws: int, seed: int) -> np.ndarray:
    """``[1 + draws, P]``: how often each prompt counts; row 0 is the sample itself. Shared: do not write."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(prompts, np.full(prompts, 1.0 / prompts), size=draws)
    return np.concatenate([np.ones((1, prompts)), counts])


def interval(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    """The percentile interval of bootstrap draws."""
    tail = (1 - confidence) / 2
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _ratio(cell: Cell, resamples: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (resamples @ cell.total) / (resamples @ cell.count)


def _mixed(shares: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Weighted mean over the components that have a share: one without pairs does not spoil the others."""
    used = shares > 0
    return shares[used] @ ratios[used]


def per_prompt(cells: Cells, *, control: str, split: str, step: int) -> pd.DataFrame:
    """The same numbers prompt by prompt, for paired statistics across runs."""
    frames = []
    for metric, components in cells.items():
        for name, cell in components.items():
            data = {"prompt": np.arange(len(cell.total), dtype=np.int32)}
            data |= {"total": cell.total.astype(np.float32), "count": cell.count.astype(np.int16)}
            frames.append(pd.DataFrame(data).assign(metric=metric, component=name))
    return pd.concat(frames, ignore_index=True).assign(control=control, split=split, step=step)
