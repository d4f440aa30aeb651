"""A sweep: its runs, their states, and which of them a launch has to start."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustalign.config import Config, TrackingConfig
from robustalign.errors import ConfigError, choices
from robustalign.files import replace_text
from robustalign.locks import Lock
from robustalign.run.folder import RunFolder, State, Status
from robustalign.run.identity import labels, place, varies, varying_keys
from robustalign.stores import hide, keep_password, sqlite_uri


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its folder, its name among the others, and the label of its point."""

    folder: RunFolder
    name: str
    label: str | None = None


@dataclass
class Sweep:
    """The runs that were launched together; ``<paths.output>/sweeps/<id>/sweep.json`` remembers them."""

    output: Path
    runs: list[Run]
    varying: list[str]  # keys that tell the runs apart
    tracking: TrackingConfig
    max_restarts: int = 3
    command: str = ""
    git: dict[str, str] = field(default_factory=dict)
    launcher: dict[str, Any] = field(default_factory=dict)  # kind and options
    environment: dict[str, str] = field(default_factory=dict)  # variables that every run sees
    watch: Callable[[Run, Status], None] | None = None  # called with every change of a state; not stored

    @property
    def id(self) -> str:
        """12 hex digits that stand for the set of runs."""
        names = sorted(run.folder.name for run in self.runs)
        return hashlib.sha256(" ".join(names).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where the sweep's own files are."""
        return self.output / "sweeps" / self.id

    @property
    def mlruns(self) -> str:
        """The URI of the tracking store."""
        return self.tracking.uri or sqlite_uri(self.output / "mlflow.db")

    def status(self) -> list[tuple[Run, Status]]:
        """Every run with its status."""
        return [(run, run.folder.status()) for run in self.runs]

    def todo(self, retry: str) -> list[Run]:
        """The runs that a launch has to start; ended ones that ``retry`` names are reopened."""
        again = {"none": (), "failed": (State.FAILED,), "all": (State.FAILED, State.FINISHED)}[retry]
        chosen = []
        for run, status in self.status():
            worn_out = status.state is State.KILLED and status.kills > self.max_restarts
            if status.state is State.FINISHED and status.state in again:
                start_over(run.folder)
            elif status.state in again or status.state is State.CANCELLED or (worn_out and again):
                run.folder.reopen()
            elif status.state.ended or worn_out:
                continue
            chosen.append(run)
        return chosen

    def restartable(self, status: Status) -> bool:
        """Whether a killed run may be started once more."""
        return status.state is State.KILLED and status.kills <= self.max_restarts

    def save(self) -> None:
        """Write ``sweep.json``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        memory = {
            "runs": {run.folder.name: run.name for run in self.runs},
            "labels": {run.folder.name: run.label for run in self.runs},
            "varying": self.varying,
            "tracking": asdict(self.tracking),
            "max_restarts": self.max_restarts,
            "command": self.command,
            "git": self.git,
            "launcher": self.launcher,
            "environment": self.environment,
            "launched": time.time(),
        }
        replace_text(self.folder / "sweep.json", json.dumps(memory, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """The sweep of a folder under ``<paths.output>/sweeps``."""
        memory = json.loads((folder / "sweep.json").read_text())
        output = folder.absolute().parent.parent
        labels, tracking = memory.get("labels", {}), TrackingConfig(**memory["tracking"])
        tracking.uri = keep_password(tracking.uri) if tracking.uri else None
        return cls(
            output=output,
            runs=[Run(RunFolder(output / "runs" / run), name, labels.get(run)) for run, name in memory["runs"].items()],
            varying=memory["varying"],
            tracking=tracking,
            max_restarts=memory["max_restarts"],
            command=hide(memory["command"]),
            git=memory["git"],
            launcher=memory["launcher"],
            environment=memory.get("environment", {}),
        )


def plan(configs: Sequence[Config], base: Config, **memory: Any) -> tuple[Sweep, list[Config]]:
    """The sweep of some configs, and the config of each of its runs. Nothing is written.

    Configs of the same run count once.
    """
    names = varies(configs)
    output = Path(configs[0].paths.output)
    runs: dict[str, tuple[Run, Config]] = {}
    for config, name, label in zip(configs, names, labels(configs), strict=True):
        folder = place(output / "runs", config, base)
        runs.setdefault(folder.name, (Run(folder, name, label), config))
    sweep = Sweep(
        output=output,
        runs=[run for run, _ in runs.values()],
        varying=varying_keys(configs),
        tracking=configs[0].tracking,
        max_restarts=configs[0].sweep.max_restarts,
        **memory,
    )
    return sweep, [config for _, config in runs.values()]


def launch(
    configs: Sequence[Config],
    base: Config,
    retry: str,
    look: Callable[[Sweep], None],
    **memory: Any,
) -> tuple[Sweep, list[Run]]:
    """Freeze every config into its run's folder and say which runs are to be started.

    Args:
        configs: of the runs.
        base: the config without overrides.
        retry: ``sweep.retry``.
        look: marks runs whose process is gone.
        memory: what else the sweep remembers.
    """
    output = Path(configs[0].paths.output)
    with Lock(output / ".launch.lock"):
        sweep, frozen = plan(configs, base, **memory)
        for run, config in zip(sweep.runs, frozen, strict=True):
            if run.folder.frozen() is None:
                run.folder.freeze(config)
        sweep.save()
        look(sweep)
        return sweep, sweep.todo(retry)


def sweeps(output: Path) -> list[Sweep]:
    """All sweeps of a ``paths.output``, the last launched one last.

    Raises:
        ConfigError: there are none.
    """
    files = sorted((output / "sweeps").glob("*/sweep.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ConfigError("paths.output", f"{output} has no sweeps")
    return [Sweep.load(file.parent) for file in files]


def find(output: Path, sweep: str | None = None) -> Sweep:
    """A sweep by its id (or the start of it); the last launched one by default."""
    all_sweeps = sweeps(output)
    fitting = [one for one in all_sweeps if sweep is None or one.id.startswith(sweep)]
    if not fitting or (sweep is not None and len(fitting) > 1):
        fault = "is not one" if fitting else "is none"
        raise ConfigError("sweep", f"{sweep!r} {fault} of: {choices(one.id for one in all_sweeps)}")
    return fitting[-1]


def start_over(folder: RunFolder) -> None:
    """Rename a run's folder and freeze its config into a new one."""
    config = folder.config()
    aside = folder.path.parent / ".superseded"
    aside.mkdir(exist_ok=True)
    shutil.move(folder.path, aside / f"{folder.name}-{folder.status().uid[:8]}")
    folder.freeze(config)
