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
from robustalign.run.folder import RunFolder, State, mark_dead
from robustalign.sweeps.backends import slurm_commands
from robustalign.sweeps.backends.slurm_fate import set_current_run

PATIENCE = 60  # seconds in which a controller that restarts should answer


class RunsFailed(Exception):
    """Some runs of a job did not finish; makes SLURM call the job FAILED."""


class Stop:
    """Whether SLURM has asked the job to stop. SLURM signals every process of a job: workers stop, this process only
    remembers that a signal came.
    """

    def __init__(self) -> None:
        self.is_set = False
        for number in worker.SIGNALS:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCONT, signal.SIG_IGN)  # SLURM sends it together with SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True


def run_chunk(folders: Sequence[str], max_restarts: int, gpus: int = 0) -> None:
    """Run some folders, one after the other: submitit's entry point on each node, of which the first leads.

    A run that is killed starts again from its checkpoint; a run that raises does not stop the next one. When
    SLURM asks the job to stop, the current run saves a checkpoint and the job requeues itself.
    With GPUs a run has one process for each GPU of every node.
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
            if stop.is_set:
                _leave(runs, board)
            set_current_run(_logs(), worker.slurm()["job"], folder.name)
            code = _worker(folder, words)
            if code == worker.EXIT[State.PREEMPTED]:
                _leave(runs, board)
            elif code == worker.EXIT[State.KILLED]:
                continue
            elif code != worker.BUSY and not folder.status().state.ended and folder.runner() is None:
                mark_dead(folder, worker.cause(code))
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
    """The file through which the nodes of this job find each other; a new one at each start of the job."""
    ids = worker.slurm()
    return _logs() / f"{ids['job']}_{ids['restarts']}_board.json"


def _logs() -> Path:
    """The folder of the sweep's job logs."""
    import submitit

    return Path(submitit.JobEnvironment().paths.folder)


def _worker(folder: RunFolder, more: Sequence[str]) -> int:
    """Run a worker to its end. Returns its exit code.

    It starts with signals blocked, and unblocks them once it can act on them: none that arrives earlier is lost.
    """
    with open(folder.log, "ab") as log:
        words = [sys.executable, "-u", "-m", "robustalign.run.worker", str(folder.path), *more]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.SIGNALS)
        try:
            process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return process.wait()


def _leave(runs: Sequence[RunFolder], board: Path | None) -> None:
    """End this job. It is requeued and continues its unfinished runs, unless the user cancelled it.

    SLURM sets a job's state before it sends a signal, so the state tells the reason. A job in state RUNNING was
    warned (of its time limit, or by a preemption with a grace time) and has to requeue itself. Any other job is
    ending already, and starts again only if somebody requeued it.
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
    """Whether a job that is ending was cancelled: it was not requeued, is not preempted, and has time left."""
    again = job_facts.get("Restarts") != os.environ.get("SLURM_RESTART_COUNT", "0")
    return not again and job_facts.get("Reason") == "None" and job_facts.get("PreemptTime", "None") == "None"
