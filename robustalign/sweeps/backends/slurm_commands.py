"""SLURM's commands: the states of jobs, requeueing and cancelling."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
from collections.abc import Collection, Iterator, Sequence

from robustalign.stores import SECRETS

# states of jobs that run, will run, or are about to end
ACTIVE = {
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "SUSPENDED",
    "STOPPED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "SPECIAL_EXIT",
}
GONE = "GONE"  # SLURM has forgotten the job
OUR_OWN = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_TIME_FORMAT"}  # how to reach SLURM, not what a job is
TIMEOUT = 60.0  # seconds that a command may take


def states(jobs: Collection[str]) -> dict[str, str] | None:
    """The state of each job; None while SLURM does not answer (a controller that restarts)."""
    if not jobs:
        return {}
    user = pwd.getpwuid(os.getuid()).pw_name
    queue = command("squeue", "--noheader", "--array", "--states=all", f"--user={user}", "--format=%i|%T")
    if queue is None:
        return None
    table = _table(queue)
    forgotten = [job for job in jobs if job not in table]
    if forgotten:
        ended = command("sacct", "--noheader", "--parsable2", "-X", f"--jobs={','.join(forgotten)}", "-oJobID,State")
        table = _table(ended or "") | table
    return {job: table.get(job, GONE) for job in jobs}


def show(job: str) -> dict[str, str]:
    """What the controller knows of one job (JobState, Restarts, ...); empty while it does not answer."""
    text = command("scontrol", "--oneliner", "show", "job", job) or ""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def requeue(job: str) -> bool:
    """Put a running job back into the queue, if SLURM can. It ends the caller soon after, if that is the job itself."""
    return command("scontrol", "requeue", job) is not None


def array_limit() -> int | None:
    """The most jobs that an array may have; None where the controller does not tell."""
    text = command("scontrol", "show", "config") or ""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """While the block runs, the environment lacks the variables of the job around this process (memory, cores, tasks)
    and the passwords of a tracking store.

    sbatch passes its environment on, and srun in the new job would read the old job's sizes as requests. No job opens a
    tracking store.
    """
    of_slurm = {name for name in os.environ if name.startswith("SLURM_")} - OUR_OWN
    hidden = {name: os.environ[name] for name in of_slurm | set(SECRETS) if name in os.environ}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs, whatever state they are in."""
    for start in range(0, len(jobs), 100):
        command("scancel", *jobs[start : start + 100])


def command(*words: str) -> str | None:
    """The output of a SLURM command; None if it failed."""
    try:
        process = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout


def _table(lines: str) -> dict[str, str]:
    """``ID|STATE`` lines; of ``CANCELLED by 0`` the first word."""
    pairs = (line.split("|") for line in lines.splitlines() if "|" in line)
    return {job: text.split()[0] for job, text in pairs if text.split()}
