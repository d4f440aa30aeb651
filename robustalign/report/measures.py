"""What policies are worth to populations, seed by seed, with the bootstrap's draws of the prompts.

Everything is computed anew from the runs' per-prompt results, so that every policy of a setting (trained, at an earlier
step, shrunk, or the reference) is measured under the same draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
import pyarrow.parquet as pq

from robustalign.config import RESERVED_TARGETS
from robustalign.evaluation.controls import TRAINED, Control, read_control
from robustalign.evaluation.metrics import METRICS, WHOLE, Metric
from robustalign.evaluation.targets import Worth
from robustalign.evaluation.worst import worst_interval
from robustalign.report import statistics
from robustalign.report.load import Run
from robustalign.report.settings import Setting
from robustalign.report.statistics import Estimate

KEPT = 64
"""Values that are held at a time: of ninety seeds each takes 3 MB, and is computed again in 10 ms."""
WORDS = ["control", "split", "metric", "component"]  # with the step they say what a prompt's numbers are of
Components = dict[str, tuple[np.ndarray, np.ndarray]]  # by name: totals [P] and counts [P], as they are stored


@dataclass(frozen=True)
class Policy:
    """A policy that was evaluated: a point's own at its last step, or one of its controls."""

    point: str
    control: Control = TRAINED


@dataclass(frozen=True)
class Values:
    """One metric of one policy: ``worth`` ``[1 + D, S]`` over draws and seeds; ``prompts`` with data."""

    worth: Worth
    seeds: tuple[int, ...]
    prompts: int
    bounds: tuple[float, float] = (-math.inf, math.inf)
    """What the metric can be; an interval ends there."""
    better: int = 1
    """1 where more is better, -1 where less is."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The populations that it has a value for, and their summaries."""
        return self.worth.names

    def of(self, target: str) -> np.ndarray:
        """``[1 + D, S]`` of a target; of any, where the metric does not depend on the population."""
        return self.worth.of(target)

    def has(self, target: str) -> bool:
        """Whether the metric has a value for a target."""
        return target in self.targets or self.targets == (WHOLE,)

    def only(self, seeds: tuple[int, ...]) -> Values:
        """The values of some of the seeds."""
        if seeds == self.seeds:
            return self
        columns = [self.seeds.index(seed) for seed in seeds]
        components = {name: values[:, columns] for name, values in self.worth.components.items()}
        return replace(self, worth=replace(self.worth, components=components), seeds=seeds)

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
    """The values of a setting's policies; those asked for last are held."""

    def __init__(self, setting: Setting, draws: int = 2000) -> None:
        self.setting, self.draws = setting, draws
        self._kept = lru_cache(maxsize=KEPT)(self._values)
        self.controls = lru_cache(maxsize=None)(self._controls)

    @cached_property
    def _cells(self) -> dict[str, dict[tuple[Control, str, str], Components]]:
        """What :func:`cells` says of each run, by its id."""
        return {run.run_id: cells(run) for run in self._runs()}

    def metrics(self, split: str | None = None) -> list[Metric]:
        """The metrics by which methods are compared and that any run has on a split, by default the report's."""
        return [metric for metric in self.every_metric(split) if metric.compared]

    def every_metric(self, split: str | None = None) -> list[Metric]:
        """Also those that say nothing of better or worse, such as the KL from the reference."""
        return [metric for metric in METRICS.values() if (split or self.setting.split, metric.name) in self._measured]

    def unknown_metrics(self) -> list[str]:
        """Names in the runs' results that no metric of this version has."""
        return sorted({metric for _, metric in self._measured} - set(METRICS))

    @cached_property
    def _measured(self) -> set[tuple[str, str]]:
        """Splits and names of metrics that any run has."""
        return {(split, metric) for known in self._cells.values() for (_, split, metric) in known}

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
        return f"{_range(seeds)} seed{'' if seeds == [1] else 's'} x {_range(prompts)} {self.setting.split} prompts"

    def _controls(self, label: str) -> list[Control]:
        """The policies that were evaluated in every run of a point, in the order of tables."""
        point = self.setting.point(label)
        by_run = [{control for control, _, _ in self._cells[run.run_id]} for run in point.runs.values()]
        shared = set.intersection(*by_run) if by_run else set()
        return sorted(shared, key=lambda control: (str(control), control.step_of(point.last_step)))

    def _runs(self) -> list[Run]:
        return [run for point in self.setting.points for run in point.runs.values()]

    def values(self, policy: Policy, metric: Metric, split: str | None = None) -> Values | None:
        """A policy's values on a split, by default the report's; None if not every run of its point has them."""
        return self._kept(policy, metric, split or self.setting.split)

    def _values(self, policy: Policy, metric: Metric, split: str) -> Values | None:
        point = self.setting.point(policy.point)
        blocks = [
            self._cells[point.runs[seed].run_id].get((policy.control, split, metric.name)) for seed in point.seeds
        ]
        present = [block for block in blocks if block is not None]
        if not present or len(present) < len(blocks):
            return None
        names = tuple(present[0])
        total, count = (
            np.array([[block[name][part] for name in names] for block in present], dtype=np.float64) for part in (0, 1)
        )
        weights = prompt_weights(total.shape[-1], self.draws)
        over = metric.over_prompts(total, count, weights)  # [1 + D, S, C]
        by_component = np.ascontiguousarray(np.moveaxis(over, -1, 0))
        worth = Worth(dict(zip(names, by_component, strict=True)), self.setting.shift, metric)
        prompts = int((count.sum((0, 1)) > 0).sum())
        return Values(worth, point.seeds, prompts, (metric.low, metric.high), metric.better)


def _range(numbers: list[int]) -> str:
    return "no" if not numbers else f"{numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")


@lru_cache(maxsize=8)
def prompt_weights(prompts: int, draws: int) -> np.ndarray:
    """``[1 + D, P]``: the same draws of the prompts for every policy."""
    return statistics.prompt_weights(prompts, draws)


@cache
def _cells(path: str, last_step: int) -> dict[tuple[Control, str, str], Components]:
    table = pq.read_table(path, read_dictionary=WORDS).combine_chunks()
    words = {key: table[key].combine_chunks() for key in WORDS}
    codes = [column.indices.to_numpy() for column in words.values()] + [table["step"].to_numpy()]
    order = np.lexsort([table["prompt"].to_numpy(), *codes])
    changes = [np.diff(code[order], prepend=code[order][:1] - 1) for code in codes]
    starts = np.flatnonzero(np.any(changes, axis=0))
    total, count = (np.split(table[name].to_numpy()[order], starts[1:]) for name in ("total", "count"))
    by_policy: dict[tuple[Control, str, str], Components] = {}
    for row, *columns in zip(order[starts], total, count, strict=True):
        control, split, metric, component = (str(column[row]) for column in words.values())
        key = read_control(control, int(codes[-1][row]), last_step), split, metric
        by_policy.setdefault(key, {})[component] = columns[0], columns[1]
    return by_policy


def cells(run: Run) -> dict[tuple[Control, str, str], Components]:
    """``{(control, split, metric's name): {component: (total [P], count [P])}}`` of a run."""
    return _cells(str(run.files / "results" / "prompts.parquet"), run.last_step)
