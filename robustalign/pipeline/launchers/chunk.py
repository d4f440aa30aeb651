"""A SLURM job: some runs, one after the other, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from robustalign.pipeline.folder import RunFolder, State
from robustalign.pipeline.launchers import scheduler
from robustalign.pipeline.sweep import bury
from robustalign.pipeline.worker import EXIT, slurm

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


class RunsFailed(Exception):
    """Some runs of a job did not finish; makes SLURM call the job FAILED."""


def run_chunk(folders: Sequence[str], max_restarts: int) -> None:
    """Run folders; submitit's entry point on the node.

    A run that is killed starts again from its checkpoint, one that raises concerns no other. When
    SLURM asks the job to stop, the run at work saves a checkpoint and the job requeues itself.
    """
    # SLURM signals every process of the job: the workers act on it, this process lets them
    for number in SIGNALS:
        signal.signal(number, _let_the_worker)
    failed = []
    for folder in map(RunFolder, folders):
        while _unfinished(folder, max_restarts):
            code = _worker(folder)
            if code == EXIT[State.PREEMPTED]:
                _go_on_later()
            elif code < 0 and not folder.status().state.ended and folder.runner() is None:
                bury(folder, f"killed by {signal.Signals(-code).name}")
            else:
                break
        if folder.status().state is not State.FINISHED:
            failed.append(folder.name)
    if failed:
        raise RunsFailed(", ".join(failed))


def warm_chunk(folders: Sequence[str]) -> None:
    """Build the stages that runs share; submitit's entry point of the first job."""
    for folder in folders:
        subprocess.run([sys.executable, "-m", "robustalign.pipeline.worker", "--warm", folder], check=True)


def _unfinished(folder: RunFolder, max_restarts: int) -> bool:
    status = folder.status()
    if folder.cancel_asked() and not status.state.ended:
        folder.set_status(State.CANCELLED)
        return False
    return not status.state.ended and status.kills <= max_restarts


def _worker(folder: RunFolder) -> int:
    with open(folder.log, "ab") as log:
        worker = [sys.executable, "-u", "-m", "robustalign.pipeline.worker", str(folder.path)]
        return subprocess.run(worker, stdout=log, stderr=subprocess.STDOUT).returncode


def _go_on_later() -> None:
    """A stopped run goes on in the same job, requeued, unless that job is already on its way out.

    A job that is COMPLETING was cancelled, or requeued by somebody else: who waits will see which.
    """
    job = slurm().get("job", "")
    if scheduler.state(job) not in ("CANCELLED", "COMPLETING"):
        scheduler.requeue(job)
    os._exit(0)


def _let_the_worker(number: int, frame: FrameType | None) -> None:
    """Stay alive."""
