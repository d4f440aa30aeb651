"""The operations on sweeps, for Python (``robustalign.sweeps``) and for the command ``robustalign sweep``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustalign.errors import ConfigError, choices
from robustalign.run.folder import State
from robustalign.sweeps.display import minutes
from robustalign.sweeps.execute import restore, resume
from robustalign.sweeps.sweep import Run, Sweep, sweeps
from robustalign.sweeps.sweep import find as find_in

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cancel", "find", "log", "look", "retry", "rows", "status", "submit", "sweeps", "wait"]

COLUMNS = ("run", "identity", "state", "step", "minutes", "job", "log", "error")
LINES = 40  # of a log


def find(output: str | Path = "outputs", sweep: str | None = None) -> Sweep:
    """A sweep under a ``paths.output`` by its id (or the start of it); the last launched one by default.

    Raises:
        ConfigError: there is none.
    """
    return find_in(Path(output).expanduser().absolute(), sweep)


def submit(*overrides: str, output: str | Path = "outputs", wait: bool = True) -> Sweep:
    """Launch a sweep as ``robustalign train -m OVERRIDES`` does, in a process of its own.

    Args:
        overrides: such as ``"experiment=radius_sweep"`` and ``"hydra/launcher=slurm"``.
        output: ``paths.output``.
        wait: stay until every run ended; otherwise come back once the runs are launched.

    Raises:
        ConfigError: nothing was launched; the reason is on stderr.
    """
    command = [sys.executable, "-m", "robustalign.cli.sweep", "submit", *([] if wait else ["--no-wait"])]
    process = subprocess.run([*command, "--output", str(output), *overrides])
    if process.returncode == 2:
        raise ConfigError("sweep", "nothing was launched; the reason is above")
    return find(output)


def look(sweep: Sweep) -> None:
    """Mark runs whose process or job is gone."""
    restore(sweep).look(sweep)


def rows(sweep: Sweep) -> list[tuple[str, str, str, int, float, str, str, str]]:
    """One row for each run, with the columns ``COLUMNS``; dead runs are marked as killed first."""
    look(sweep)
    return [
        (
            run.name,
            run.folder.name,
            status.state.value,
            status.step,
            minutes(status),
            job.job if (job := run.folder.job()) else "-",
            str(run.folder.log),
            status.error or "",
        )
        for run, status in sweep.status()
    ]


def status(sweep: Sweep) -> pd.DataFrame:
    """A frame with one row for each run: ``run identity state step minutes job log error``; dead runs are marked as
    killed first.
    """
    import pandas as pd

    return pd.DataFrame(rows(sweep), columns=list(COLUMNS))


def wait(sweep: Sweep) -> int:
    """Wait until every run has ended; killed runs, and runs without a process or job, are started again.

    Returns 0 if every run finished, 1 if not, 130 if somebody stopped the waiting.
    """
    look(sweep)
    todo = [run for run, status in sweep.status() if not status.state.ended and status.kills <= sweep.max_restarts]
    backend = restore(sweep)
    backend.wait = True
    return resume(sweep, todo, backend)


def retry(sweep: Sweep, *names: str) -> int:
    """Start failed, cancelled and too often killed runs (all, or those named) again, from their checkpoints.

    Returns what ``wait`` does.
    """
    look(sweep)
    again = [run for run in chosen(sweep, names) if run.folder.status().state is not State.FINISHED]
    for run in again:
        if run.folder.status().state.ended or run.folder.status().state is State.KILLED:
            run.folder.reopen()
    return resume(sweep, again, restore(sweep))


def cancel(sweep: Sweep, *names: str) -> list[Run]:
    """Cancel runs: a running one saves a checkpoint at its next step and stops, the others never start."""
    runs = [run for run in chosen(sweep, names) if not run.folder.status().state.ended]
    for run in runs:
        run.folder.ask_cancel()
    restore(sweep).cancel(sweep, runs)
    for run in runs:
        if run.folder.runner() is None and not run.folder.status().state.ended:
            run.folder.set_status(State.CANCELLED)
    return runs


def log(sweep: Sweep, name: str) -> str:
    """The end of a run's log."""
    (run,) = chosen(sweep, [name])
    if not run.folder.log.exists():
        return ""
    return "".join(run.folder.log.read_text(errors="replace").splitlines(keepends=True)[-LINES:])


def chosen(sweep: Sweep, names: Sequence[str]) -> list[Run]:
    """Runs by name or by identity (or its start); all if none is named.

    Raises:
        ConfigError: a name fits none.
    """
    for name in names:
        if not any(_fits(run, name) for run in sweep.runs):
            names_of_runs = choices(f"{run.folder.name} ({run.name})" for run in sweep.runs)
            raise ConfigError("run", f"no run {name!r} in sweep {sweep.id}; it has: {names_of_runs}")
    return [run for run in sweep.runs if not names or any(_fits(run, name) for name in names)]


def _fits(run: Run, name: str) -> bool:
    return run.name == name or run.folder.name.startswith(name)
