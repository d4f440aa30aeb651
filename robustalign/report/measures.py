"""What policies are worth to populations, seed by seed, with the bootstrap's draws of the prompts.

Everything is computed anew from the runs' per-prompt results, so that every policy of a setting (trained, at
an earlier step, shrunk, or the reference) is seen under the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import pandas as pd

from robustalign.evaluation.targets import LOWER_IS_BETTER, WHOLE, summary
from robustalign.report import statistics
from robustalign.report.load import Run
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate

METRICS = ("reward", "accuracy", "loss", "kl")
BOUNDS = {"accuracy": (0.0, 1.0), "loss": (0.0, math.inf), "kl": (0.0, math.inf)}  # what a metric can be
KEYS = ["control", "split", "step", "metric", "component"]


@dataclass(frozen=True)
class Policy:
    """A policy that was evaluated: a point's own at its last step, or one of its controls."""

    point: str
    control: str = "policy"
    step: int | None = None


@dataclass(frozen=True)
class Values:
    """One metric of one policy: ``draws [1 + D, S, T]`` over seeds and targets; ``prompts`` with data.

    ``bounds``: what the metric can be; an interval ends there.
    """

    draws: np.ndarray
    seeds: tuple[int, ...]
    targets: tuple[str, ...]
    prompts: int
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def of(self, target: str) -> np.ndarray:
        """``[1 + D, S]`` of a target; of any, where the metric does not depend on the population."""
        return self.draws[:, :, self.targets.index(WHOLE if self.targets == (WHOLE,) else target)]

    def has(self, target: str) -> bool:
        return target in self.targets or self.targets == (WHOLE,)

    def only(self, seeds: tuple[int, ...]) -> Values:
        columns = [self.seeds.index(seed) for seed in seeds]
        return Values(self.draws[:, columns], seeds, self.targets, self.prompts, self.bounds)

    def estimate(self, target: str) -> Estimate:
        e = statistics.estimate(self.of(target), self.prompts)
        low, high = min(max(e.low, self.bounds[0]), e.value), max(min(e.high, self.bounds[1]), e.value)
        return replace(e, low=low, high=high)


def better(metric: str) -> int:
    """1 where more is better, -1 where less is."""
    return -1 if metric in LOWER_IS_BETTER else 1


class Measures:
    """The values of a setting's policies, each computed once."""

    def __init__(self, setting: Setting, draws: int = 2000) -> None:
        self.setting, self.draws = setting, draws
        self.values = lru_cache(maxsize=None)(self._values)

    def metrics(self, split: str = "test") -> list[str]:
        """The metrics that any run has on a split, in the order of reports, ``kl`` left out."""
        runs = [run for point in self.setting.points for run in point.runs.values()]
        there = {metric for run in runs for (_, where, _, metric) in cells(run) if where == split}
        return [metric for metric in METRICS if metric in there and metric != "kl"]

    def has_split(self, split: str) -> bool:
        return bool(self.metrics(split))

    def targets(self) -> tuple[str, ...]:
        return self.setting.shift.names

    def count(self) -> str:
        """How many seeds and test prompts stand behind the numbers, in words."""
        seeds = sorted({len(point.seeds) for point in self.setting.points})
        found = (self.values(Policy(p.label), metric) for p in self.setting.points for metric in self.metrics())
        prompts = sorted({values.prompts for values in found if values is not None})
        return f"{_range(seeds)} seed{'' if seeds == [1] else 's'} x {_range(prompts)} test prompts"

    def controls(self, point: Point) -> list[tuple[str, int]]:
        """The policies that were evaluated in every run of a point, as ``(control, step)``."""
        there = [{(control, step) for control, _, step, _ in cells(run)} for run in point.runs.values()]
        return sorted(set.intersection(*there)) if there else []

    def _values(self, policy: Policy, metric: str, split: str = "test") -> Values | None:
        """None if not every run of the point has it."""
        point = self.setting.point(policy.point)
        step = 0 if policy.control == "reference" else point.last_step if policy.step is None else policy.step
        found = [cells(point.runs[seed]).get((policy.control, split, step, metric)) for seed in point.seeds]
        blocks = [block for block in found if block is not None]
        if not blocks or len(blocks) < len(found):
            return None
        names = tuple(blocks[0])
        total = np.stack([[block[name][0] for name in names] for block in blocks])  # [S, C, P]
        count = np.stack([[block[name][1] for name in names] for block in blocks])
        weights = prompt_weights(total.shape[-1], self.draws)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = _weighted(weights, total) / _weighted(weights, count)
        by_target = self._by_target(dict(zip(names, np.moveaxis(ratios, -1, 0), strict=True)), metric)
        used = int((count.sum((0, 1)) > 0).sum())
        draws, bounds = np.stack(list(by_target.values()), -1), BOUNDS.get(metric, (-math.inf, math.inf))
        return Values(draws, point.seeds, tuple(by_target), used, bounds)

    def _by_target(self, ratios: Mapping[str, np.ndarray], metric: str) -> dict[str, np.ndarray]:
        if WHOLE in ratios:
            return {WHOLE: ratios[WHOLE]}
        shift = self.setting.shift
        stacked = np.stack([ratios[component.name] for component in shift.components])

        def mixed(shares: np.ndarray) -> np.ndarray:
            return np.tensordot(shares[shares > 0], stacked[shares > 0], 1)

        values = {name: mixed(shift.shares(name)) for name in shift.names}
        shape = stacked.shape[1:]
        flat = summary({name: value.reshape(-1) for name, value in values.items()}, shift, metric)
        return values | {name: v.reshape(shape) for name, v in flat.items()} | {"nominal": mixed(shift.shares())}


def _range(numbers: list[int]) -> str:
    return "no" if not numbers else f"{numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")


def _weighted(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``[D, S, C]``: sums over the prompts of ``values [S, C, P]`` under ``weights [D, P]``."""
    return (weights @ values.reshape(-1, values.shape[-1]).T).reshape(len(weights), *values.shape[:-1])


@lru_cache(maxsize=8)
def prompt_weights(prompts: int, draws: int) -> np.ndarray:
    """The same draws of the prompts for every policy."""
    return statistics.prompt_weights(prompts, draws)


@cache
def _cells(path: str) -> dict[tuple[str, str, int, str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    frame = pd.read_parquet(path).sort_values("prompt", kind="stable")
    found: dict[tuple[str, str, int, str], dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for (control, split, step, metric, component), block in frame.groupby(KEYS, sort=False):
        columns = block["total"].to_numpy(np.float64), block["count"].to_numpy(np.float64)
        found.setdefault((control, split, int(step), metric), {})[component] = columns
    return found


def cells(run: Run) -> dict[tuple[str, str, int, str], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """``{(control, split, step, metric): {component: (total [P], count [P])}}`` of a run."""
    return _cells(str(run.files / "results" / "prompts.parquet"))
