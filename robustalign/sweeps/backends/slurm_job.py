"""A SLURM job: some runs, one after the other, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from robustalign.run import rank_processes, worker
from robustalign.run.folder import RunFolder, State, bury
from robustalign.sweeps.backends import slurm_commands
from robustalign.sweeps.backends.slurm_fate import set_at_work

PATIENCE = 60  # seconds in which a controller that restarts should answer


class RunsFailed(Exception):
    """Some runs of a job did not finish; makes SLURM call the job FAILED."""


class Stop:
    """Whether SLURM wants the job to stop. It signals every process of a job: the workers act, this one remembers."""

    def __init__(self) -> None:
        self.asked = False
        for number in worker.SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)  # comes along with SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def run_chunk(folders: Sequence[str], max_restarts: int, gpus: int = 0) -> None:
    """Run folders; submitit's entry point on each node, of which the first leads.

    A run that is killed starts again from its checkpoint, one that raises concerns no other. When
    SLURM asks the job to stop, the run at work saves a checkpoint and the job requeues itself.
    With GPUs a run has a process for each of them, on every node.
    """
    stop, runs = Stop(), [RunFolder(folder) for folder in folders]
    nodes, node = int(os.environ.get("SLURM_JOB_NUM_NODES", 1)), int(os.environ.get("SLURM_NODEID", 0))
    board = _board() if nodes > 1 else None
    words = [f"--nodes={nodes}", f"--node={node}", *([f"--board={board}"] if board else [])]
    words += [f"--processes={gpus}"] if gpus else []
    if node > 0:
        _worker(runs[0], words)
        return
    for folder in runs:
        while _unfinished(folder, max_restarts):
            if stop.asked:
                _leave(runs, board)
            set_at_work(_logs(), worker.slurm()["job"], folder.name)
            code = _worker(folder, words)
            if code == worker.EXIT[State.PREEMPTED]:
                _leave(runs, board)
            elif code == worker.EXIT[State.KILLED]:
                continue
            elif code != worker.BUSY and not folder.status().state.ended and folder.runner() is None:
                bury(folder, worker.cause(code))
            else:
                break
    rank_processes.dismiss(board)
    failed = [folder.name for folder in runs if folder.status().state is not State.FINISHED]
    if failed:
        raise RunsFailed(", ".join(failed))


def warm_chunk(folders: Sequence[str]) -> None:
    """Build the stages that runs share; submitit's entry point of the first job."""
    for folder in folders:
        subprocess.run([sys.executable, "-m", "robustalign.run.worker", "--warm", folder], check=True)


def _unfinished(folder: RunFolder, max_restarts: int) -> bool:
    status = folder.status()
    if folder.cancel_asked() and not status.state.ended:
        folder.set_status(State.CANCELLED)
        return False
    return not status.state.ended and status.kills <= max_restarts


def _board() -> Path:
    """Where the nodes of this job meet; another file each time that the job starts."""
    ids = worker.slurm()
    return _logs() / f"{ids['job']}_{ids['restarts']}_board.json"


def _logs() -> Path:
    """The folder of the sweep's job logs."""
    import submitit

    return Path(submitit.JobEnvironment().paths.folder)


def _worker(folder: RunFolder, more: Sequence[str]) -> int:
    """Run a worker to its end. It is born deaf to signals and hears them, late ones too, once it can act on them."""
    with open(folder.log, "ab") as log:
        words = [sys.executable, "-u", "-m", "robustalign.run.worker", str(folder.path), *more]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.SIGNALS)
        try:
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process.wait()


def _leave(runs: Sequence[RunFolder], board: Path | None) -> None:
    """End this job: what is not finished goes on in the same job, requeued, unless the user cancelled it.

    SLURM marks a job before it signals it, so its word tells why the signal came: a job that still
    runs was warned (of its time limit, or by a preemption with a time of grace) and has to requeue
    itself; any other is ending already, and comes back by itself if somebody requeued it.
    """
    rank_processes.dismiss(board)
    job, deadline = worker.slurm().get("job", ""), time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        job_facts = slurm_commands.show(job)
        if job_facts.get("JobState") == "RUNNING":
            if slurm_commands.requeue(job):
                break
        elif job_facts:
            if _cancelled(job_facts):
                for folder in runs:
                    if not folder.status().state.ended:
                        folder.set_status(State.CANCELLED, ended=time.time())
            break
        time.sleep(1)
    os._exit(0)


def _cancelled(job_facts: Mapping[str, str]) -> bool:
    """Whether a job that ends was cancelled: nobody requeued or preempts it, and its time is not over."""
    again = job_facts.get("Restarts") != os.environ.get("SLURM_RESTART_COUNT", "0")
    return not again and job_facts.get("Reason") == "None" and job_facts.get("PreemptTime", "None") == "None"
