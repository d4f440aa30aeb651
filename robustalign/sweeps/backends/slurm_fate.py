"""What became of runs whose SLURM jobs are gone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from robustalign.files import replace_text
from robustalign.run.folder import Job, State, Status, mark_dead, mark_if_dead
from robustalign.sweeps.backends import slurm_commands
from robustalign.sweeps.sweep import Run, Sweep


def is_active(run: Run, states: Mapping[str, str]) -> bool:
    """Whether a run's job waits or runs, by the states that SLURM tells."""
    job = run.folder.job()
    return job is not None and states.get(job.job, slurm_commands.GONE) in slurm_commands.ACTIVE


def settle(sweep: Sweep, run: Run, states: Mapping[str, str]) -> bool:
    """Write down what became of a run whose job is gone. Whether it could go on in another job."""
    if is_active(run, states) or run.folder.runner() is not None:
        return False
    # The status is read after the state of the job, which may have ended the run meanwhile.
    job, status = run.folder.job(), run.folder.status()
    if status.state.ended:
        return False
    if job is None:
        mark_if_dead(run.folder)
        return not run.folder.status().state.ended
    state, folder = states.get(job.job, slurm_commands.GONE), sweep.folder / "slurm"
    if status.attempts == job.attempts and current_run(folder, job.job) not in (None, run.folder.name):
        return True  # the job had not come to it yet
    if status.attempts == job.attempts:
        _count_dead_job(sweep, run, job, status, state)
    elif status.state is not State.KILLED and (status.state is not State.PREEMPTED or state == "CANCELLED"):
        mark_dead(run.folder, f"its job ended as {state} before the run did", cancelled=state == "CANCELLED")
    return not run.folder.status().state.ended


def set_current_run(folder: Path, job: str, run: str) -> None:
    """Write into the folder of the sweep's job logs which run a job is working on."""
    replace_text(folder / f"{job}_run", run)


def current_run(folder: Path, job: str) -> str | None:
    """The last run that a job worked on; None if the job ended before its first."""
    try:
        return (folder / f"{job}_run").read_text()
    except FileNotFoundError:
        return None


def out_of_restarts(sweep: Sweep, run: Run) -> bool:
    """Whether a run was killed too often for the sweep to restart it."""
    status = run.folder.status()
    return status.state is State.KILLED and not sweep.restartable(status)


def _count_dead_job(sweep: Sweep, run: Run, job: Job, status: Status, state: str) -> None:
    """A job that ended before its run started is a death of the run, counted once; too many of them fail it."""
    if status.kills > job.kills:
        return
    line = last_line(sweep.folder / "slurm", job.job)
    mark_dead(run.folder, f"its job ended as {state} before the run started: {line}", cancelled=state == "CANCELLED")
    if out_of_restarts(sweep, run):
        jobs = run.folder.status().kills
        run.folder.set_status(
            State.FAILED, error=f"{jobs} jobs ended before the run started; the last one said: {line}"
        )


def last_line(folder: Path, job: str) -> str:
    """The last line of a job's log that is not blank."""
    logs = sorted(folder.glob(f"{job}_*log.out"), key=lambda file: file.stat().st_mtime)
    lines = [line.strip() for file in logs for line in file.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), f"nothing (no log {folder}/{job}_*)")
