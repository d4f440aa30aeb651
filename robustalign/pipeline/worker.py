"""One run as one process: ``python -m robustalign.pipeline.worker RUN_FOLDER``.

A worker holds its run's lock, writes its status, journal and traceback, and stops at a step
boundary when a signal asks it to. It never talks to a tracking store.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any

from robustalign.cache import EXPIRY
from robustalign.errors import ConfigError
from robustalign.pipeline.folder import RunFolder, State, Stopped
from robustalign.pipeline.journal import Journal

EXIT = {State.FINISHED: 0, State.FAILED: 1, State.PREEMPTED: 75, State.CANCELLED: 76}
BUSY = 77  # another process runs it
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
PACKAGES = ("robustalign", "torch", "transformers", "datasets", "accelerate", "peft", "hydra-core", "mlflow", "numpy")


def line() -> Any:
    """The module with the stages of a run: ``run_line``, ``warm``, ``shared_key`` and ``check_config``."""
    return importlib.import_module(os.environ.get("ROBUSTALIGN_LINE", "robustalign.pipeline.line"))


class StopRequest:
    """Whether the run should save a checkpoint and stop: a signal came, the user cancelled, the launcher is gone."""

    def __init__(self, folder: RunFolder, parent: int | None = None) -> None:
        self.folder = folder
        self.parent = parent
        self.signal: signal.Signals | None = None
        for number in SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # what came while nobody could hear it comes now
        os.register_at_fork(after_in_child=_leave_signals_to_parent)

    def __call__(self) -> bool:
        orphaned = self.parent is not None and os.getppid() != self.parent
        return self.signal is not None or orphaned or self.folder.cancel_asked()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


def _leave_signals_to_parent() -> None:
    """Schedulers signal every process of a job; data-loader workers must neither act on that nor become deaf."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def work(folder: RunFolder, parent: int | None = None, patience: float = 0.0) -> int:
    """Run a folder's config to its end, or until asked to stop. Returns the exit code.

    Args:
        folder: with a frozen config.
        parent: stop when this process is no longer the parent.
        patience: seconds to wait for a process that runs it already.
    """
    stop = StopRequest(folder, parent)
    lock = folder.lock()
    if not lock.acquire(timeout=patience):
        return BUSY
    try:
        state = folder.status().state
        return EXIT[state] if state.ended else _attempt(folder, stop)
    finally:
        lock.release()


def _attempt(folder: RunFolder, stop: StopRequest) -> int:
    before, began = folder.status(), time.time()
    folder.set_status(
        State.RUNNING,
        attempts=before.attempts + 1,
        started=before.started or began,
        began=began,
        ended=None,
        error=None,
        host=platform.node(),
        pid=os.getpid(),
        slurm=slurm() or before.slurm,
    )
    journal = Journal(folder.journal)
    error: str | None = None
    try:
        folder.environment.write_text(json.dumps(environment(), indent=1) + "\n")
        if stop():
            raise Stopped
        line().run_line(folder.config(), folder, journal, stop)
        state = State.FINISHED
    except Stopped:
        state = State.CANCELLED if folder.cancel_asked() else State.PREEMPTED
    except BaseException as raised:
        folder.traceback.write_text(traceback.format_exc())
        if isinstance(raised, ConfigError):
            print(f"robustalign: error: {raised}", file=sys.stderr)
        else:
            traceback.print_exc()
        error = _one_line(raised)
        # data-loader workers die of the signal that asked us to stop: go on from the last checkpoint later
        state = State.FAILED if not stop() else State.CANCELLED if folder.cancel_asked() else State.PREEMPTED
    journal.close()
    ended = time.time()
    folder.set_status(state, ended=ended, seconds=before.seconds + ended - began, error=error)
    return EXIT[state]


def _one_line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:500] if words else type(error).__name__


def slurm() -> dict[str, str]:
    """The ids that SLURM gave this job; empty outside of it."""
    if "SLURM_JOB_ID" not in os.environ:
        return {}
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
    return {"job": job, "restarts": os.environ.get("SLURM_RESTART_COUNT", "0")}


def environment() -> dict[str, Any]:
    """Where and with what a run is computed."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "SLURM_JOB_PARTITION")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "packages": packages,
        "variables": {name: os.environ[name] for name in names if name in os.environ},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run one folder, or (``--warm``) build the stages that it shares with others."""
    parser = argparse.ArgumentParser(prog="python -m robustalign.pipeline.worker", description=__doc__)
    parser.add_argument("folder", help="a run's folder with its config.yaml")
    parser.add_argument("--warm", action="store_true", help="only build the shared stages into the cache")
    args = parser.parse_args(argv)
    folder = RunFolder(args.folder)
    if args.warm:
        line().warm(folder.config())
        return 0
    # a node that died still has the lock until its signs of life are too old
    return work(folder, patience=EXPIRY + 60 if slurm() else 0)


if __name__ == "__main__":
    sys.exit(main())
