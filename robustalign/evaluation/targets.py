"""Per-prompt results, their summaries over populations, and intervals.

A *cell* holds one metric's values for one component, prompt by prompt: sums and counts. A metric says how they become
one value; a population's value is the mean of its components' values, weighted by its shares. The bootstrap resamples
prompts, the same ones for every component, and so keeps what a prompt does to all of them together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce

import numpy as np
import pandas as pd

from robustalign.evaluation.controls import Control
from robustalign.evaluation.metrics import METRICS, WHOLE, Cell, Metric
from robustalign.evaluation.worst import worst_interval
from robustalign.shifts import Populations

SUMMARIES = ("worst", "area")
COLUMNS = ("control", "split", "step", "target", "coordinate", "metric", "value", "low", "high", "n")


Cells = Mapping[str, Mapping[str, Cell]]  # by the metric's name and the component's


def evaluate_targets(
    cells: Cells,
    shift: Populations,
    *,
    control: Control,
    split: str,
    last_step: int,
    draws: int,
    confidence: float,
    seed: int = 0,
) -> pd.DataFrame:
    """The long table of one policy on one split: each target's metrics and their summaries, with intervals.

    Summary targets: ``nominal`` (the training population), ``worst`` (the worst of the targets) and ``area``
    (the mean over the targets' coordinate range, by the trapezoid rule); a target without data is in neither. The
    interval of the worst holds although it was picked (``worst_interval``). ``n`` counts prompts with data. A value
    that is nan has no interval.

    Args:
        cells: of metrics of the registry.
        shift: whose targets are the populations.
        control: which policy of the run was measured.
        split: on which prompts.
        last_step: of the run's training.
        draws: bootstrap resamples of the prompts.
        confidence: of the intervals, percentiles but for the worst.
        seed: of the resamples.
    """
    rows = []
    step = control.step_of(last_step)
    for metric, components in cells.items():
        values = target_draws(components, shift, METRICS[metric], draws, seed)
        coordinates = {name: shift.coordinate(name) for name in shift.names} | {"nominal": 0.0}
        n = int(np.any([cell.count > 0 for cell in components.values()], axis=0).sum())
        for target, draws_of in values.items():
            if not np.isfinite(draws_of[0]):
                low = high = np.nan
            elif target == "worst":
                picked_from = np.stack([values[name] for name in with_data(components, shift)], 1)
                low, high = worst_interval(picked_from, METRICS[metric].better, confidence)
            else:
                low, high = interval(draws_of[1:], confidence)
            where = coordinates.get(target, float("nan"))
            rows.append((str(control), split, step, target, where, metric, draws_of[0], low, high, n))
    return pd.DataFrame(rows, columns=COLUMNS)


def target_draws(
    components: Mapping[str, Cell], shift: Populations, metric: Metric, draws: int, seed: int
) -> dict[str, np.ndarray]:
    """``{target: [1 + draws]}``: the value of each target and of the summary, then its bootstrap draws."""
    prompts = len(next(iter(components.values())).total)
    resamples = resample_weights(prompts, draws, seed)
    names = list(components)
    total, count = (np.stack([getattr(components[name], part) for name in names]) for part in ("total", "count"))
    values = metric.over_prompts(total, count, resamples)
    return by_target(dict(zip(names, values.T, strict=True)), shift, metric)


@dataclass(frozen=True)
class Worth:
    """Values of components, from which those of populations and their summaries are mixed when they are asked for.

    A component that is not among ``components`` had no data: its populations are nan, and no part of the summaries.
    """

    components: Mapping[str, np.ndarray]
    """By name, of one shape ``[...]``."""
    shift: Populations
    metric: Metric

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The targets, their summaries and the nominal population; of a metric that knows no people ``WHOLE`` alone."""
        if WHOLE in self.components:
            return (WHOLE,)
        return (*self.shift.names, *(SUMMARIES if with_data(self.components, self.shift) else ()), "nominal")

    def of(self, name: str) -> np.ndarray:
        """``[...]`` of one of ``names``; of any, where the metric knows no people."""
        if WHOLE in self.components:
            return self.components[WHOLE]
        there = with_data(self.components, self.shift) if name in SUMMARIES else []
        if name == "worst":
            return reduce(self.metric.worse, map(self.of, _ends(there, self.shift)))
        shares = _area(there, self.shift) if name == "area" else self.shift.shares(None if name == "nominal" else name)
        return self._mixed(shares)

    def _mixed(self, shares: np.ndarray) -> np.ndarray:
        """``[...]``: mean over the components that have a share; the others cannot spoil it."""
        mixed = np.zeros(np.shape(next(iter(self.components.values()))))
        for component, share in zip(self.shift.components, shares.tolist(), strict=True):
            if share > 0:
                mixed += share * self.components.get(component.name, np.nan)
        return mixed


def by_target(components: Mapping[str, np.ndarray], shift: Populations, metric: Metric) -> dict[str, np.ndarray]:
    """All that :class:`Worth` has, by name."""
    worth = Worth(components, shift, metric)
    return {name: worth.of(name) for name in worth.names}


def with_data(components: Collection[str], shift: Populations) -> list[str]:
    """The targets all of whose components are among these."""
    lacking = np.array([component.name not in components for component in shift.components])
    return [name for name in shift.names if not shift.shares(name)[lacking].any()]


def _ends(targets: Sequence[str], shift: Populations) -> Sequence[str]:
    """Of these targets those that can be worst: where all lie on a line of shares its two ends, for what is linear in
    the shares is least and largest there; else all."""
    shares = np.stack([shift.shares(name) for name in targets])
    along = shares - shares[0]
    direction = along[np.abs(along).sum(1).argmax()]
    place = along @ direction
    on_line = np.allclose(along * (direction @ direction), np.outer(place, direction), rtol=0, atol=1e-12)
    return [targets[i] for i in sorted({int(place.argmin()), int(place.argmax())})] if on_line else targets


def _area(targets: Sequence[str], shift: Populations) -> np.ndarray:
    """``[C]``: shares of the mean over the targets' coordinate range, by the trapezoid rule."""
    where = np.array([shift.coordinate(name) for name in targets])
    order = np.argsort(where, kind="stable")
    width, weight = where.max() - where.min(), np.full(len(targets), 1 / len(targets))
    if width > 0:
        steps = np.diff(where[order]) / width
        weight[order] = (np.append(steps, 0) + np.insert(steps, 0, 0)) / 2
    return weight @ np.stack([shift.shares(name) for name in targets])


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


def per_prompt(cells: Cells, *, control: Control, split: str, last_step: int) -> pd.DataFrame:
    """The same numbers prompt by prompt, for paired statistics across runs."""
    frames = []
    for metric, components in cells.items():
        for name, cell in components.items():
            data = {"prompt": np.arange(len(cell.total), dtype=np.int32)}
            data |= {"total": cell.total.astype(np.float32), "count": cell.count.astype(np.float32)}
            frames.append(pd.DataFrame(data).assign(metric=metric, component=name))
    about = {"control": str(control), "split": split, "step": control.step_of(last_step)}
    return pd.concat(frames, ignore_index=True).assign(**about)
