"""What one does to a sweep after its launch: look, cancel, make ready for another try."""

from __future__ import annotations

from collections.abc import Sequence

from robustalign.pipeline.folder import State
from robustalign.pipeline.launchers import scheduler
from robustalign.pipeline.launchers.execute import restore
from robustalign.pipeline.sweep import Run, Sweep


def look(sweep: Sweep) -> None:
    """Mark runs whose process or job is gone."""
    restore(sweep).look(sweep.runs)


def cancel(sweep: Sweep, runs: Sequence[Run]) -> list[Run]:
    """Stop runs for good: those at work save a checkpoint at their next step, the others never start."""
    asked = [run for run in runs if not run.folder.status().state.ended]
    for run in asked:
        run.folder.ask_cancel()
    known = scheduler.states({job for run in asked if (job := run.folder.job())}) or {}
    waiting = {job for job, state in known.items() if state == "PENDING" and _only_of(job, sweep, asked)}
    scheduler.cancel(sorted(waiting))
    for run in asked:
        if run.folder.runner() is None and not run.folder.status().state.ended:
            run.folder.set_status(State.CANCELLED)
    return asked


def ready_again(runs: Sequence[Run]) -> list[Run]:
    """Make runs that ended without finishing ready to go on; those that never ended come along."""
    chosen = [run for run in runs if run.folder.status().state is not State.FINISHED]
    for run in chosen:
        if run.folder.status().state.ended or run.folder.status().state is State.KILLED:
            run.folder.reopen()
    return chosen


def _only_of(job: str, sweep: Sweep, asked: Sequence[Run]) -> bool:
    """Whether a job has no other runs than these."""
    return all(run in asked for run in sweep.runs if run.folder.job() == job)
