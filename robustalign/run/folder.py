"""A run's folder: its frozen config, what state it is in, and where its files are."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.files import replace_text
from robustalign.locks import Lock, Owner

STEP_EVERY = 0.5  # seconds between two writes of the status that change the step alone


class Stopped(Exception):
    """A run that was asked to stop has saved a checkpoint and goes no further for now."""


class State(StrEnum):
    """What became of a run. Those before FINISHED go on when somebody launches them."""

    PENDING = "PENDING"  # not started yet
    RUNNING = "RUNNING"
    PREEMPTED = "PREEMPTED"  # stopped on request; goes on from its checkpoint
    KILLED = "KILLED"  # ended without writing a status (kill -9, out of memory, node lost); starts again
    FINISHED = "FINISHED"
    FAILED = "FAILED"  # raised; only a retry starts it again
    CANCELLED = "CANCELLED"  # by the user

    @property
    def ended(self) -> bool:
        """Whether the run has ended: it goes on only after a retry."""
        return self in (State.FINISHED, State.FAILED, State.CANCELLED)


@dataclass
class Status:
    """The content of ``status.json``. Times are seconds since the epoch."""

    state: State = State.PENDING
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)  # of this run, for stores that import it
    step: int = 0
    attempts: int = 0  # times it was started
    kills: int = 0  # times it ended without writing a status
    started: float | None = None  # the first attempt
    began: float | None = None  # the last attempt
    updated: float | None = None
    ended: float | None = None
    seconds: float = 0.0  # spent running, over all attempts
    host: str | None = None
    pid: int | None = None
    slurm: dict[str, str] = field(default_factory=dict)
    error: str | None = None  # one line


@dataclass(frozen=True)
class Job:
    """A scheduler's job: its id, and the run's attempts and kills before it."""

    job: str
    attempts: int
    kills: int


class RunFolder:
    """The files of one run under ``<paths.output>/runs/<identity>``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self.results = self.path / "results"
        self.model = self.path / "model"
        self.log = self.path / "log.txt"
        self.journal = self.path / "journal.jsonl"
        self.traceback = self.path / "traceback.txt"
        self.environment = self.path / "environment.json"
        self.config_file = self.path / "config.yaml"
        self.inputs_file = self.path / "inputs.json"
        self._status_file = self.path / "status.json"
        self._cancel_file = self.path / "cancel"
        self._job_file = self.path / "job.json"
        self._last: tuple[tuple[int, int, int], Status] | None = None  # of a run that ended
        self._step: int | None = None
        self._last_write = 0.0

    @property
    def name(self) -> str:
        """The folder's name: the run's identity, with a number where an older run has the same."""
        return self.path.name

    def lock(self) -> Lock:
        """The lock that the process holds which runs this run."""
        return Lock(self.path.with_name(f".{self.name}.lock"))

    def runner(self) -> Owner | None:
        """The process that runs it; None if there is none alive."""
        return self.lock().owner()

    def freeze(self, config: Config) -> None:
        """Write the config that the run will use, whatever happens to ``conf/`` later."""
        self.path.mkdir(parents=True, exist_ok=True)
        replace_text(self.config_file, yaml.dump(asdict(config), Dumper=yaml.CSafeDumper, sort_keys=False))
        if not self._status_file.exists():
            self._write(Status(updated=time.time()))

    def frozen(self) -> dict[str, Any] | None:
        """The frozen config as plain containers; None if there is none."""
        try:
            plain: dict[str, Any] = yaml.load(self.config_file.read_bytes(), Loader=yaml.CSafeLoader)
        except FileNotFoundError:
            return None
        return plain

    def remember_inputs(self, inputs: Mapping[str, str]) -> None:
        """Write down what the run is computed from, at its first start."""
        if not self.inputs_file.exists():
            replace_text(self.inputs_file, json.dumps(inputs, indent=1, sort_keys=True) + "\n")

    def changed_inputs(self, inputs: Mapping[str, str]) -> list[str]:
        """Names of the inputs whose fingerprints differ from those at the run's start; none if these were not kept."""
        if not self.inputs_file.is_file():
            return []
        before: dict[str, str] = json.loads(self.inputs_file.read_text())
        return sorted(name for name in before.keys() & inputs.keys() if before[name] != inputs[name])

    def config(self) -> Config:
        """The frozen config."""
        frozen = self.frozen()
        if frozen is None:
            raise ConfigError("run", f"{self.path} has no config.yaml: not a run's folder")
        return thaw(frozen)

    def status(self) -> Status:
        """The run's status; a fresh one if it was never launched. That of an ended run is read from disk once."""
        try:
            file = self._status_file.stat()
            stamp = file.st_ino, file.st_mtime_ns, file.st_size
            if self._last is not None and self._last[0] == stamp:
                return replace(self._last[1], slurm=dict(self._last[1].slurm))
            content = json.loads(self._status_file.read_text())
        except FileNotFoundError:
            return Status()
        names = {f.name for f in fields(Status)}
        status = Status(**{key: value for key, value in content.items() if key in names})
        status.state = State(status.state)
        self._last = (stamp, replace(status, slurm=dict(status.slurm))) if status.state.ended else None
        return status

    def set_status(self, state: State | None = None, **changes: Any) -> None:
        """Change parts of the status. Only the run's own process calls it, or a process that found that one dead.

        A change of the step alone may reach the disk half a second late.
        """
        if state is None and set(changes) == {"step"} and time.monotonic() - self._last_write < STEP_EVERY:
            self._step = changes["step"]
            return
        status = self.status()
        if self._step is not None:
            status.step, self._step = self._step, None
        for key, value in changes.items():
            setattr(status, key, value)
        status.state = state or status.state
        status.updated = time.time()
        self._write(status)

    def ask_cancel(self) -> None:
        """Ask the run's process to stop for good."""
        self._cancel_file.touch()

    def cancel_asked(self) -> bool:
        """Whether the user has cancelled the run."""
        return self._cancel_file.exists()

    def job(self) -> Job | None:
        """The scheduler's job that runs it or is queued for it; None without one."""
        try:
            return Job(**{"attempts": 0, "kills": 0} | json.loads(self._job_file.read_text()))
        except FileNotFoundError:
            return None

    def set_job(self, job: str, before: Status) -> None:
        """Store the id of the run's job, and the attempts and kills of the run before the job was submitted."""
        memory = {"job": job, "attempts": before.attempts, "kills": before.kills}
        replace_text(self._job_file, json.dumps(memory) + "\n")

    def reopen(self) -> None:
        """Make an ended run pending again; it resumes from its checkpoint if it has one."""
        self._cancel_file.unlink(missing_ok=True)
        self.traceback.unlink(missing_ok=True)
        self._job_file.unlink(missing_ok=True)
        self.set_status(State.PENDING, error=None, kills=0, ended=None)

    def _write(self, status: Status) -> None:
        replace_text(self._status_file, json.dumps(asdict(status), indent=1) + "\n")
        self._last_write = time.monotonic()


def mark_if_dead(folder: RunFolder) -> None:
    """Mark a run as killed whose status is RUNNING although no process runs it."""
    if folder.status().state is State.RUNNING and folder.runner() is None:
        mark_dead(folder, "the process ended without writing a status (killed, out of memory, or its machine was lost)")


def mark_dead(folder: RunFolder, error: str, cancelled: bool = False) -> None:
    """Set the status of a run whose process is dead: KILLED, or CANCELLED if the user cancelled it."""
    _end(folder, State.CANCELLED if cancelled or folder.cancel_asked() else State.KILLED, error)


def mark_stopped(folder: RunFolder) -> None:
    """Set the status of a run whose process was stopped on request before it could save: it goes on from its last
    checkpoint.
    """
    if folder.status().state is State.RUNNING:
        _end(folder, State.CANCELLED if folder.cancel_asked() else State.PREEMPTED, None)


def _end(folder: RunFolder, state: State, error: str | None) -> None:
    """Write the final status for a process that ended without writing one."""
    status = folder.status()
    ended = status.updated or time.time()
    seconds = status.seconds + max(0.0, ended - (status.began or ended))
    folder.set_status(state, kills=status.kills + (state is State.KILLED), ended=ended, seconds=seconds, error=error)


def thaw(plain: Mapping[str, Any]) -> Config:
    """The config from the plain containers of a frozen one; keys that this version does not have are left out."""
    config = _typed(Config, plain)
    assert isinstance(config, Config)
    return config


def _typed(kind: type, plain: Mapping[str, Any]) -> Any:
    kinds = _hints(kind)
    shared_keys = kinds.keys() & plain.keys()
    return kind(
        **{name: _typed(kinds[name], plain[name]) if is_dataclass(kinds[name]) else plain[name] for name in shared_keys}
    )


@cache
def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name."""
    return {field.name: get_type_hints(kind)[field.name] for field in fields(kind)}
