"""Runs as the tracking store knows them, and ``robustalign.runs``: their results as one tidy frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd
import yaml
from omegaconf import MISSING

from robustalign.config import Config
from robustalign.report.strength import columns_of
from robustalign.run.identity import labels
from robustalign.stores import keep_password, sqlite_uri

COLUMNS = (
    "label", "method", "knob", "knob_value", "radius", "temperature", "beta", "seed", "model", "shift",
    "control", "split", "step", "target", "coordinate", "metric", "value", "low", "high", "n", "run_id", "status",
)  # fmt: skip
REPEATED = ("label", "method", "knob", "model", "shift", "control", "split", "target", "metric", "run_id", "status")


class MissingResults(UserWarning):
    """Runs of an experiment have nothing to show: not started, running, or failed."""


@dataclass(frozen=True)
class Run:
    """A run: its identity, its config, its status, the last value of each metric, and the folder of its files."""

    run_id: str
    name: str
    status: str
    uid: str
    identity: str
    sweep: str
    parent: str | None
    started: float
    config: Mapping[str, Any]
    metrics: Mapping[str, float]
    files: Path

    @property
    def method(self) -> Mapping[str, Any]:
        """The keys of ``method``."""
        return self.config.get("method") or {}

    @property
    def seed(self) -> int:
        """What drew the pairs, their order and the evaluation's replies."""
        return int(self.config.get("seed") or 0)

    @property
    def label(self) -> str:
        """What tables call its point; ``identity.labels`` tells points of the same name apart."""
        return self.config.get("label") or str(self.method.get("name", self.name))

    @property
    def last_step(self) -> int:
        """The optimiser step after which its policy was trained."""
        steps = self.config["trainer"].get("max_steps")
        return int(self.metrics["data/steps"] if steps is None else steps)

    @property
    def has_results(self) -> bool:
        """Whether its evaluation was written."""
        return (self.files / "results" / "targets.csv").is_file()

    @cached_property
    def targets(self) -> pd.DataFrame:
        """``results/targets.csv``: every target's metrics with their intervals over prompts."""
        return pd.read_csv(self.files / "results" / "targets.csv")


def runs(
    experiment: str,
    uri: str | None = None,
    output: str | Path = "outputs",
    *,
    split: str | None = "test",
    controls: bool = False,
) -> pd.DataFrame:
    """The results of an experiment's runs, one row per run x target x metric.

    Intervals are over the prompts of that run. ``label`` names a run's point, with the values in which points of the
    same method differ; runs of several seeds share it. ``knob`` and ``knob_value`` say what sets the strength of its
    ambiguity set (``temperature``, 0.5), whatever the set. Runs without results are named in a ``MissingResults``
    warning; a run that two sweeps share counts once.

    Args:
        experiment: its name in the store (``tracking.experiment``).
        uri: the store; by default ``sqlite:///<output>/mlflow.db``.
        output: the folder that ``paths.output`` named.
        split: ``test`` or ``validation``; None for both.
        controls: also the reference, the shrunk policies (``shrink_0.5``), and the policy at earlier steps.

    Raises:
        ConfigError: there is no such store or experiment.
    """
    every = load_runs(store(uri, output), experiment, output)
    silent = [run for run in every if not run.has_results]
    if silent:
        names = ", ".join(f"{run.name} ({run.status})" for run in silent[:5]) + (", ..." if len(silent) > 5 else "")
        warnings.warn(f"{len(silent)} of {len(every)} runs have no results: {names}", MissingResults, stacklevel=2)
    return tidy([run for run in every if run.has_results], split, controls)


def store(uri: str | None, output: str | Path) -> str:
    """The URI of the tracking store."""
    return keep_password(uri) if uri else sqlite_uri(Path(output).expanduser().absolute() / "mlflow.db")


def load_runs(uri: str, experiment: str, output: str | Path, sweep: str | None = None) -> list[Run]:
    """The runs of an experiment, oldest first, each once.

    Args:
        uri: of the store.
        experiment: its name.
        output: where files of a store that is not on this machine are kept (below ``downloads``).
        sweep: only the runs of this sweep.

    Raises:
        ConfigError: there is no such store or experiment.
    """
    from robustalign.tracking.files import local_files
    from robustalign.tracking.read import runs_table

    table = runs_table(uri, experiment, sweep)
    folders = local_files(uri, table, Path(output) / "downloads") if len(table) else []
    return once(_run(row, folder) for row, folder in zip(table.to_dict("records"), folders, strict=True))


def once(runs: Iterable[Run]) -> list[Run]:
    """Each run once, though every sweep that contains it has an entry of its own: the latest finished one."""
    latest: dict[str, Run] = {}
    for run in sorted(runs, key=lambda run: (run.status == "FINISHED", run.started)):
        latest.pop(run.uid, None)
        latest[run.uid] = run
    return sorted(latest.values(), key=lambda run: (run.started, run.run_id))


def tidy(runs: Iterable[Run], split: str | None = "test", controls: bool = True) -> pd.DataFrame:
    """The tidy frame of runs that have results."""
    frames, about, runs = [], [], list(runs)
    for run, label in zip(runs, labels([run.config for run in runs]), strict=True):
        table = run.targets
        keep = pd.Series(True, index=table.index)
        if split is not None:
            keep &= table["split"] == split
        if not controls:
            policy = table["control"] == "policy"
            keep &= policy & (table["step"] == table.loc[policy, "step"].max())
        frames.append(table[keep])
        about.append(_about(run, label))
    if not frames:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = pd.concat(frames, ignore_index=True)
    described = pd.DataFrame(about).loc[pd.Index(range(len(frames))).repeat([len(f) for f in frames])]
    frame = pd.concat([described.reset_index(drop=True), rows], axis=1)[list(COLUMNS)]
    return frame.astype(dict.fromkeys(REPEATED, "category"))


def _about(run: Run, label: str) -> dict[str, Any]:
    method = run.method
    numbers = columns_of(method)
    names = {key: (run.config.get(key) or {}).get("name") for key in ("model", "shift")}
    described = {"label": label, "method": method.get("name"), "seed": run.seed, "run_id": run.run_id}
    return described | numbers | names | {"status": run.status}


def _run(row: Mapping[str, Any], folder: Path) -> Run:
    def text(key: str) -> str:
        value = row.get(key)
        return "" if value is None or value != value else str(value)

    metrics = {k.removeprefix("metrics."): float(v) for k, v in row.items() if k.startswith("metrics.") and v == v}
    params = {k.removeprefix("params."): v for k, v in row.items() if k.startswith("params.") and v == v and v}
    started = row["start_time"]
    return Run(
        run_id=row["run_id"],
        name=text("name"),
        status=text("tags.robustalign.status") or text("status"),
        uid=text("tags.robustalign.uid") or row["run_id"],
        identity=text("tags.robustalign.identity"),
        sweep=text("tags.robustalign.sweep"),
        parent=text("parent") or None,
        started=started.timestamp() if started == started else 0.0,
        config=_config(folder / "config.yaml", params),
        metrics=metrics,
        files=folder,
    )


def _config(path: Path, params: Mapping[str, str]) -> Mapping[str, Any]:
    """The run's resolved config; of a run that has not ended, what the store was told of it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if path.is_file():
        return _completed(yaml.load(path.read_text(), loader), Config)
    config: dict[str, Any] = {}
    for key, value in params.items():
        *groups, leaf = key.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = yaml.load(value, loader)
    return config


_types = cache(get_type_hints)


def _completed(config: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """A config with the keys that the schema has got since, at their defaults, which change no run."""
    types = _types(schema)
    added = {key: value for key, value in vars(schema()).items() if key not in config and value != MISSING}
    nodes = [key for key, value in config.items() if isinstance(value, dict) and is_dataclass(types.get(key))]
    full = {key: _completed(config[key], types[key]) for key in nodes}
    return {
        **config,
        **full,
        **{key: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for key, v in added.items()},
    }
