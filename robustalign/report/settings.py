"""Which runs may be compared: settings, points and seeds, and what readers must be warned of.

A *setting* is a model, its data and a shift: runs of different settings have nothing in common and are reported
apart. A *point* is a method with its values in a setting; its runs differ by their seed alone, so only they are
ever averaged.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from robustalign.config import ShiftConfig
from robustalign.report.load import Run
from robustalign.report.strength import Strength, strength_of
from robustalign.run.identity import NO_RESULT, labels
from robustalign.shifts import Populations, Recorded, ScorerShift, Standards

SETTING = ("model", "dataset", "shift", "reward")
MEASURED = ("splits", "replies", "pairs_per_prompt")  # of evaluation: what the numbers are
FEW_SEEDS = 5
UNTESTED = "no run was tested: these are validation prompts, on which settings are chosen and nothing is shown"


@dataclass
class Point:
    """A method with its values, and its finished runs by seed."""

    label: str
    config: Mapping[str, Any]
    runs: dict[int, Run] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method's name."""
        return str((self.config.get("method") or {}).get("name"))

    @cached_property
    def knob(self) -> Strength | None:
        """What sets how strong it is, as its ambiguity set's class declares; None where nothing does."""
        return strength_of(self.config["method"])

    def results(self, name: str) -> pd.DataFrame:
        """The rows of a file of ``results/`` over all of its runs that have one, in the order of their seeds."""
        files = [run.files / "results" / name for _, run in sorted(self.runs.items())]
        tables = [pd.read_csv(file) for file in files if file.is_file()]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    @property
    def strength(self) -> float:
        """How far it leads from dpo, in an order of its own knob's values; 0 without a knob."""
        return 0.0 if self.knob is None else self.knob.order

    @property
    def beta(self) -> float | None:
        """The scale of the implicit reward."""
        beta = self.config["method"].get("beta")
        return None if beta is None else float(beta)

    @property
    def plain(self) -> bool:
        """Whether it is dpo, at whatever learning rate: no set, no other loss, no weights of groups."""
        method = self.config["method"]
        if method.get("oracle") or method.get("policy") or method.get("own_pairs") or method.get("mass") is not None:
            return False
        return method.get("set") == "nominal" and method.get("loss") == "sigmoid"

    @property
    def oracle(self) -> bool:
        """Whether it was trained for a target's people."""
        return bool(self.config["method"].get("oracle"))

    @property
    def trainer(self) -> Mapping[str, Any]:
        """The keys of ``trainer`` that change its results."""
        return self.config.get("trainer") or {}

    @property
    def last_step(self) -> int:
        """The optimiser step after which its policies were trained."""
        return next(iter(self.runs.values())).last_step

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its finished runs."""
        return tuple(sorted(self.runs))


@dataclass
class Setting:
    """The points that share a model, data and a shift, dpo first, and what readers must be warned of."""

    name: str
    config: Mapping[str, Any]
    points: list[Point]
    warnings: list[str]

    @cached_property
    def shift(self) -> Populations:
        """The populations: names, coordinates and shares, as the runs wrote them down, or as the config says."""
        run = next(run for point in self.points for run in point.runs.values())
        recorded = run.files / "results" / "populations.json"
        if recorded.is_file():
            return Recorded(json.loads(recorded.read_text()))
        return ScorerShift(ShiftConfig(**self.config["shift"]), Standards(raw={}))

    @cached_property
    def split(self) -> str:
        """Whose prompts the report is about: test, or validation where no run was tested."""
        runs = (run for point in self.points for run in point.runs.values())
        return "test" if any("test" in set(run.targets["split"]) for run in runs) else "validation"

    @cached_property
    def baseline(self) -> Point | None:
        """The dpo that the others are compared with: the one that is trained as most of them are."""
        plain = [point for point in self.points if point.plain]
        common = Counter(_trainer_key(point) for point in self.points if not point.plain)
        return max(plain, key=lambda p: (common[_trainer_key(p)], len(p.runs), -self.points.index(p)), default=None)

    @property
    def others(self) -> list[Point]:
        """All points but the baseline."""
        return [point for point in self.points if point is not self.baseline]

    @property
    def robust(self) -> list[Point]:
        """The methods under test: neither dpo nor an oracle."""
        return [point for point in self.points if not point.plain and not point.oracle]

    def families(self) -> dict[str, list[Point]]:
        """The points of each method under test, from the weakest to the strongest."""
        families: dict[str, list[Point]] = {}
        for point in sorted(self.robust, key=lambda p: p.strength):
            families.setdefault(point.method, []).append(point)
        return families

    def point(self, label: str) -> Point:
        """The point of a label."""
        return next(point for point in self.points if point.label == label)


def settings(runs: Sequence[Run]) -> list[Setting]:
    """Sort an experiment's runs. Runs that have not finished only appear in the warnings."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.status == "FINISHED" and run.has_results:
            groups.setdefault(_key(_setting_config(run)), []).append(run)
    shared = _unfinished(runs) + _sweeps(runs)
    names = _distinct([_setting_names(group[0]) for group in groups.values()])
    return [_setting(name, group, shared) for name, group in zip(names, groups.values(), strict=True)]


def _setting(name: str, runs: Sequence[Run], shared: Sequence[str]) -> Setting:
    points: dict[str, Point] = {}
    warnings = list(shared)
    for run, label in zip(runs, labels([run.config for run in runs]), strict=True):
        config = _point_config(run)
        point = points.setdefault(_key(config), Point(label, config))
        if run.seed in point.runs:
            warnings.append(f"{label} has two finished runs with seed {run.seed}; the later one counts")
        point.runs[run.seed] = run
    ordered = sorted(points.values(), key=lambda p: (not p.plain, p.oracle, p.method, p.strength, p.label))
    setting = Setting(name, runs[0].config, ordered, warnings)
    if setting.split != "test":
        setting.warnings.append(UNTESTED)
    setting.warnings += [*_seeds(setting), *_scales(setting), *_budgets(setting), *_controls(setting)]
    return setting


def _setting_config(run: Run) -> Mapping[str, Any]:
    evaluation = run.config.get("evaluation") or {}
    return {key: run.config.get(key) for key in SETTING} | {key: evaluation.get(key) for key in MEASURED}


def _point_config(run: Run) -> Mapping[str, Any]:
    trainer = {key: value for key, value in run.config["trainer"].items() if key not in NO_RESULT}
    if run.method.get("scope") == "microbatch":
        trainer["micro_batch_size"] = run.config["trainer"]["micro_batch_size"]
    groups = run.config.get("groups") or {}
    grouping = {} if groups.get("method", "none") == "none" else {"groups": groups}
    return {"method": run.method, "trainer": trainer, **grouping}


def _distinct(names: Sequence[Mapping[str, str]]) -> list[str]:
    """Name each setting by what differs among them; the empty name for a single one."""
    if len(names) < 2:
        return [""] * len(names)
    keys = [key for key in names[0] if len({name[key] for name in names}) > 1]
    joined = [" ".join(name[key] for key in keys) or "setting" for name in names]
    return [name if joined.count(name) == 1 else f"{name} {i + 1}" for i, name in enumerate(joined)]


def _setting_names(run: Run) -> Mapping[str, str]:
    return {key: str((run.config.get(key) or {}).get("name")) for key in ("model", "dataset", "shift")}


def _unfinished(runs: Sequence[Run]) -> list[str]:
    """Warnings of runs that are left out, and of points that have no finished run."""
    warnings = []
    for status in sorted({run.status for run in runs if run.status != "FINISHED"}):
        names = [run.name for run in runs if run.status == status]
        warnings.append(f"{len(names)} of {len(runs)} runs are {status} and left out: {_some(names)}")
    done = {run.label for run in runs if run.status == "FINISHED"}
    if absent := sorted({run.label for run in runs} - done):
        warnings.append(f"no run of {_some(absent)} has finished: nothing is said of it")
    empty = [run.name for run in runs if run.status == "FINISHED" and not run.has_results]
    if empty:
        warnings.append(f"{len(empty)} finished runs have no results and are left out: {_some(empty)}")
    return warnings


def _sweeps(runs: Sequence[Run]) -> list[str]:
    sweeps = dict.fromkeys(run.sweep for run in runs if run.sweep)
    if len(sweeps) < 2:
        return []
    return [f"the experiment holds {len(sweeps)} sweeps, all used; take one alone with sweep={'|'.join(sweeps)}"]


def _seeds(setting: Setting) -> Iterator[str]:
    counts = {point.label: len(point.seeds) for point in setting.points}
    few = {label: count for label, count in counts.items() if count < FEW_SEEDS}
    if few:
        in_words = _some([f"{label} ({count})" for label, count in few.items()])
        yield f"fewer than {FEW_SEEDS} seeds stand behind {in_words}: too few for a claim about reward"
    if any(count == 1 for count in counts.values()):
        yield "with one seed an interval tells of the prompts alone, not of another training"
    if setting.baseline is None:
        yield "no dpo was run in this setting: there are no differences to report"
        return
    for point in setting.others:
        unpaired = sorted(set(point.seeds) ^ set(setting.baseline.seeds))
        if unpaired:
            labels = f"{point.label} and {setting.baseline.label}"
            yield f"{labels} do not share seeds {unpaired}; differences leave them out"


def _scales(setting: Setting) -> Iterator[str]:
    sizes = {point.label: point.trainer.get("batch_size") for point in setting.points}
    if len(set(sizes.values())) > 1:
        in_words = ", ".join(f"{label} N={size}" for label, size in sizes.items())
        yield f"batch sizes differ ({in_words}): a radius means another worst case at another N"
    betas = {point.label: point.beta for point in setting.points}
    if len(set(betas.values())) > 1:
        in_words = ", ".join(f"{label} {_show(beta)}" for label, beta in betas.items())
        yield f"beta differs ({in_words}): losses have different scales; compare reward, accuracy and KL"
    steps = {point.label: point.last_step for point in setting.points}
    if len(set(steps.values())) > 1:
        yield "numbers of steps differ: " + ", ".join(f"{label} {count}" for label, count in steps.items())


def _budgets(setting: Setting) -> Iterator[str]:
    budgets = {"dpo": plain} if (plain := sum(point.plain for point in setting.points)) else {}
    budgets |= {method: len(points) for method, points in setting.families().items()}
    if len(set(budgets.values())) > 1:
        in_words = ", ".join(f"{method} {count}" for method, count in budgets.items())
        chances = "more points are more chances to be the best, unless a rule chooses"
        yield f"tuning budgets differ (points tried: {in_words}): {chances}"


def _controls(setting: Setting) -> Iterator[str]:
    dpo = setting.baseline
    if dpo is None:
        return
    evaluation = next(iter(dpo.runs.values())).config.get("evaluation") or {}
    if not evaluation.get("shrinkage"):
        yield "the shrinkage curve is missing (evaluation.shrinkage of dpo): a gain may be a smaller step"
    if not evaluation.get("steps") and not evaluation.get("epochs"):
        yield "dpo was not measured along its steps (evaluation.steps): a gain may be a training stopped earlier"
    if sum(point.plain for point in setting.points) < 2:
        yield "dpo was run at one learning rate: a gain may be a learning rate"
    if not any(point.oracle for point in setting.points):
        yield "no oracle was run: how much there is to gain is unknown"


def _trainer_key(point: Point) -> str:
    return _key(point.trainer)


def _key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _some(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:6]) + (f" and {len(every) - 6} more" if len(every) > 6 else "")


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
