"""What SLURM knows of jobs, asked of its own commands."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Collection, Sequence

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
TIMEOUT = 60.0  # seconds that a command may take


def states(jobs: Collection[str]) -> dict[str, str] | None:
    """The state of each job; None while SLURM does not answer (a controller that restarts)."""
    if not jobs:
        return {}
    user = pwd.getpwuid(os.getuid()).pw_name
    queue = command("squeue", "--noheader", "--array", "--states=all", f"--user={user}", "--format=%i|%T")
    if queue is None:
        return None
    known = _table(queue)
    forgotten = [job for job in jobs if job not in known]
    if forgotten:
        ended = command("sacct", "--noheader", "--parsable2", "-X", f"--jobs={','.join(forgotten)}", "-oJobID,State")
        known = _table(ended or "") | known
    return {job: known.get(job, GONE) for job in jobs}


def show(job: str) -> dict[str, str]:
    """What the controller knows of one job (JobState, Restarts, ...); empty while it does not answer."""
    shown = command("scontrol", "--oneliner", "show", "job", job) or ""
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def requeue(job: str) -> bool:
    """Put a running job back into the queue, if SLURM can. It ends the caller soon after, if that is the job itself."""
    return command("scontrol", "requeue", job) is not None


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs, whatever state they are in."""
    for start in range(0, len(jobs), 100):
        command("scancel", *jobs[start : start + 100])


def command(*words: str) -> str | None:
    """The output of a SLURM command; None if it failed."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _table(lines: str) -> dict[str, str]:
    """``ID|STATE`` lines; of ``CANCELLED by 0`` the first word."""
    pairs = (line.split("|") for line in lines.splitlines() if "|" in line)
    return {job: text.split()[0] for job, text in pairs if text.split()}
