"""What policies are worth to populations, seed by seed, with the bootstrap's draws of the prompts.

Everything is computed anew from the runs' per-prompt results, so that every policy of a setting (trained, at an earlier
step, shrunk, or the reference) is measured under the same draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import pandas as pd

from robustalign.config import RESERVED_TARGETS
from robustalign.evaluation.controls import TRAINED, Control, read_control
from robustalign.evaluation.metrics import METRICS, WHOLE, Metric
from robustalign.evaluation.targets import by_target
from robustalign.evaluation.worst import worst_interval
from robustalign.report import statistics
from robustalign.report.load import Run
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate

KEYS = ["control", "split", "step", "metric", "component"]
Components = dict[str, tuple[np.ndarray, np.ndarray]]  # by name: totals [P] and counts [P]


@dataclass(frozen=True)
class Policy:
    """A policy that was evaluated: a point's own at its last step, or one of its controls."""

    point: str
    control: Control = TRAINED


@dataclass(frozen=True)
class Values:
    """One metric of one policy: ``draws [1 + D, S, T]`` over seeds and targets; ``prompts`` with data."""

    draws: np.ndarray
    seeds: tuple[int, ...]
    targets: tuple[str, ...]
    prompts: int
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """What the metric can be; an interval ends there."""
    better: int = 1
    """1 where more is better, -1 where less is."""

    def of(self, target: str) -> np.ndarray:
        """``[1 + D, S]`` of a target; of any, where the metric does not depend on the population."""
        return self.draws[:, :, self.targets.index(WHOLE if self.targets == (WHOLE,) else target)]

    def has(self, target: str) -> bool:
        """Whether the metric has a value for a target."""
        return target in self.targets or self.targets == (WHOLE,)

    def only(self, seeds: tuple[int, ...]) -> Values:
        """The values of some of the seeds."""
        if seeds == self.seeds:
            return self
        columns = [self.seeds.index(seed) for seed in seeds]
        return replace(self, draws=self.draws[:, columns], seeds=seeds)

    def mean(self, target: str) -> float:
        """The mean over seeds; nan if any seed's value is."""
        return float(self.of(target)[0].mean())

    def estimate(self, target: str) -> Estimate:
        """The mean over seeds with its interval over seeds and prompts.

        That of ``worst`` holds although the worst target was picked (``robustalign.evaluation.worst``).
        """
        estimate = statistics.estimate(self.of(target), self.prompts)
        alone = [name for name in self.targets if name not in RESERVED_TARGETS]
        if target == "worst" and len(alone) > 1:
            means = np.stack([statistics.seed_means(self.of(name)) for name in alone], -1)
            estimate = estimate.picked(*worst_interval(means, self.better, statistics.CONFIDENCE))
        return estimate.within(*self.bounds)


class Measures:
    """The values of a setting's policies, each computed once."""

    def __init__(self, setting: Setting, draws: int = 2000) -> None:
        self.setting, self.draws = setting, draws
        self.values = lru_cache(maxsize=None)(self._values)

    def metrics(self, split: str = "test") -> list[Metric]:
        """The metrics by which methods are compared and that any run has on a split, in the order of reports."""
        return [metric for metric in self.every_metric(split) if metric.compared]

    def every_metric(self, split: str = "test") -> list[Metric]:
        """Also those that say nothing of better or worse, such as the KL from the reference."""
        names = {metric for run in self._runs() for (_, where, metric) in cells(run) if where == split}
        return [metric for metric in METRICS.values() if metric.name in names]

    def unknown_metrics(self) -> list[str]:
        """Names in the runs' results that no metric of this version has."""
        return sorted({metric for run in self._runs() for (_, _, metric) in cells(run)} - set(METRICS))

    def has_split(self, split: str) -> bool:
        """Whether any run was measured on a split."""
        return bool(self.metrics(split))

    def targets(self) -> tuple[str, ...]:
        """The names of the target populations."""
        return self.setting.shift.names

    def count(self) -> str:
        """How many seeds and test prompts stand behind the numbers, in words."""
        seeds = sorted({len(point.seeds) for point in self.setting.points})
        every = (self.values(Policy(p.label), metric) for p in self.setting.points for metric in self.metrics())
        prompts = sorted({values.prompts for values in every if values is not None})
        return f"{_range(seeds)} seed{'' if seeds == [1] else 's'} x {_range(prompts)} test prompts"

    def controls(self, point: Point) -> list[Control]:
        """The policies that were evaluated in every run of a point, in the order of tables."""
        by_run = [{control for control, _, _ in cells(run)} for run in point.runs.values()]
        shared = set.intersection(*by_run) if by_run else set()
        return sorted(shared, key=lambda control: (str(control), control.step_of(point.last_step)))

    def _runs(self) -> list[Run]:
        return [run for point in self.setting.points for run in point.runs.values()]

    def _values(self, policy: Policy, metric: Metric, split: str = "test") -> Values | None:
        """None if not every run of the point has it."""
        point = self.setting.point(policy.point)
        blocks = [cells(point.runs[seed]).get((policy.control, split, metric.name)) for seed in point.seeds]
        present = [block for block in blocks if block is not None]
        if not present or len(present) < len(blocks):
            return None
        names = tuple(present[0])
        total, count = (np.stack([[block[name][part] for name in names] for block in present]) for part in (0, 1))
        weights = prompt_weights(total.shape[-1], self.draws)
        by_component = np.moveaxis(metric.over_prompts(total, count, weights), -1, 0)  # [C, 1 + D, S]
        worth = by_target(dict(zip(names, by_component, strict=True)), self.setting.shift, metric)
        draws, prompts = np.stack(list(worth.values()), -1), int((count.sum((0, 1)) > 0).sum())
        return Values(draws, point.seeds, tuple(worth), prompts, (metric.low, metric.high), metric.better)


def _range(numbers: list[int]) -> str:
    return "no" if not numbers else f"{numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")


@lru_cache(maxsize=8)
def prompt_weights(prompts: int, draws: int) -> np.ndarray:
    """``[1 + D, P]``: the same draws of the prompts for every policy."""
    return statistics.prompt_weights(prompts, draws)


@cache
def _cells(path: str, last_step: int) -> dict[tuple[Control, str, str], Components]:
    frame = pd.read_parquet(path).sort_values("prompt", kind="stable")
    by_policy: dict[tuple[Control, str, str], Components] = {}
    for (control, split, step, metric, component), block in frame.groupby(KEYS, sort=False):
        columns = block["total"].to_numpy(np.float64), block["count"].to_numpy(np.float64)
        key = read_control(control, int(step), last_step), split, metric
        by_policy.setdefault(key, {})[component] = columns
    return by_policy


def cells(run: Run) -> dict[tuple[Control, str, str], Components]:
    """``{(control, split, metric's name): {component: (total [P], count [P])}}`` of a run."""
    return _cells(str(run.files / "results" / "prompts.parquet"), run.last_step)
