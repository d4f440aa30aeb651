"""One run as one process: ``python -m robustalign.run.worker RUN_FOLDER``.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from robustalign.errors import ConfigError
from robustalign.locks import EXPIRY
from robustalign.run import program, rank_processes
from robustalign.run.folder import RunFolder, State, Stopped, mark_dead
from robustalign.run.journal import Journal, SilentJournal
from robustalign.run.rank_processes import RankFailed, RankKilled, Team, one_line

EXIT = {State.FINISHED: 0, State.FAILED: 1, State.PREEMPTED: 75, State.CANCELLED: 76, State.KILLED: 78}
BUSY = 77  # another process runs it
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
PACKAGES = ("robustalign", "torch", "transformers", "datasets", "accelerate", "peft", "hydra-core", "mlflow", "numpy")


class StopRequest:
    """Whether the run should save a checkpoint and stop: a signal came, the user cancelled, the launcher is gone."""

    def __init__(self, folder: RunFolder, parent: int | None = None) -> None:
        self.folder = folder
        self.parent = parent
        self.signal: signal.Signals | None = None
        for number in SIGNALS:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # delivers those that came while blocked
        os.register_at_fork(after_in_child=_leave_signals_to_parent)

    def __call__(self) -> bool:
        orphaned = self.parent is not None and os.getppid() != self.parent
        return self.signal is not None or orphaned or self.folder.cancel_asked()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


def _leave_signals_to_parent() -> None:
    """In a forked child, ignore the signals that ask for a stop and end on SIGTERM: schedulers signal all processes."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def work(folder: RunFolder, parent: int | None = None, patience: float = 0.0, team: Team | None = None) -> int:
    """Run a folder's config to its end, or until asked to stop. Returns the exit code.

    Args:
        folder: with a frozen config.
        parent: stop when this process is no longer the parent.
        patience: seconds to wait for a process that runs it already.
        team: the ranks that share the run; default ``trainer.nproc`` on this machine.
    """
    stop = StopRequest(folder, parent)
    lock = folder.lock()
    if not lock.acquire(timeout=patience):
        return BUSY
    try:
        state = folder.status().state
        return EXIT[state] if state.ended else _attempt(folder, stop, team)
    finally:
        lock.release()


def _attempt(folder: RunFolder, stop: StopRequest, team: Team | None) -> int:
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
        config = folder.config()
        trainer = config.trainer
        team = team or Team(trainer.nproc)
        if team.ranks == 1:
            science = program.load(config.sweep.program)
            folder.remember_inputs(science.inputs(config))
            science.run(config, folder, journal, stop)
        else:
            rank_processes.lead(team, str(folder.path), trainer.device, _on_a_rank(folder, journal), stop)
        state = State.FINISHED
    except Stopped:
        state = State.CANCELLED if folder.cancel_asked() else State.PREEMPTED
    except RankKilled as killed:
        mark_dead(folder, str(killed))
        journal.close()
        return EXIT[folder.status().state]
    except RankFailed as raised:  # the rank has printed it
        folder.traceback.write_text(raised.trace)
        error, state = str(raised), _state_after_error(folder, stop)
    except BaseException as raised:
        folder.traceback.write_text(traceback.format_exc())
        if isinstance(raised, ConfigError):
            print(f"robustalign: error: {raised}", file=sys.stderr)
        else:
            traceback.print_exc()
        error, state = one_line(raised), _state_after_error(folder, stop)
    journal.close()
    ended = time.time()
    folder.set_status(state, ended=ended, seconds=before.seconds + ended - began, error=error)
    return EXIT[state]


def _state_after_error(folder: RunFolder, stop: StopRequest) -> State:
    """The state after an exception. One that a requested stop caused is no failure: the run resumes from its
    checkpoint.
    """
    return State.FAILED if not stop() else State.CANCELLED if folder.cancel_asked() else State.PREEMPTED


def _on_a_rank(folder: RunFolder, journal: Journal) -> Callable[[], None]:
    """The function that each rank calls; only rank 0 writes files."""
    parent = os.getpid()

    def run() -> None:
        leads = os.environ["RANK"] == "0"
        try:
            config = folder.config()
            stop = StopRequest(folder, parent)
            science = program.load(config.sweep.program)
            if leads:
                folder.remember_inputs(science.inputs(config))
            science.run(config, folder, journal if leads else SilentJournal(), stop)
        finally:
            if leads:
                folder.set_status()  # writes the last step to disk, if it is not there yet

    return run


def cause(code: int | None) -> str:
    """Why a worker ended without writing a status, from its exit code."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (kill -9, or out of memory)" if name == "SIGKILL" else "")
    return f"the process ended with exit code {code} before the run did"


def follow(board: Path, nodes: int, node: int) -> int:
    """Take part in the runs of a job whose first machine leads. Returns the exit code."""
    for number in SIGNALS:  # the ranks react to them
        signal.signal(number, signal.SIG_IGN)
    rank_processes.follow(
        board,
        nodes,
        node,
        device=lambda meeting: RunFolder(meeting.run).config().trainer.device,
        work=lambda meeting: _on_a_rank(RunFolder(meeting.run), SilentJournal()),
    )
    return 0


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
    parser = argparse.ArgumentParser(prog="python -m robustalign.run.worker", description=__doc__)
    parser.add_argument("folder", nargs="?", help="a run's folder with its config.yaml")
    parser.add_argument("--warm", action="store_true", help="only build the shared stages into the cache")
    parser.add_argument("--processes", type=int, help="ranks on each machine; default trainer.nproc")
    parser.add_argument("--nodes", type=int, default=1, help="machines of the job")
    parser.add_argument("--node", type=int, default=0, help="which of them this is")
    parser.add_argument("--board", type=Path, help="a file by which the first tells the others where to meet")
    args = parser.parse_args(argv)
    if args.node > 0:
        return follow(args.board, args.nodes, args.node)
    folder = RunFolder(args.folder)
    if args.warm:
        config = folder.config()
        program.load(config.sweep.program).warm(config)
        return 0
    # a machine that died keeps the lock until it has given no sign of life for EXPIRY seconds
    team = Team(args.processes or folder.config().trainer.nproc, args.nodes, 0, args.board)
    return work(folder, patience=EXPIRY + 60 if slurm() else 0, team=team)


if __name__ == "__main__":
    sys.exit(main())
