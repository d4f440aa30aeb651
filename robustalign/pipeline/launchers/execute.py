"""From configs to an exit code: check, freeze, run, import, report."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from robustalign.config import Config
from robustalign.pipeline.folder import State
from robustalign.pipeline.follow import following
from robustalign.pipeline.git import git_state
from robustalign.pipeline.launchers.display import describe_plan, print_summary
from robustalign.pipeline.launchers.nurseries import NurseryClient, nursery
from robustalign.pipeline.sweep import Run, Sweep, dump, launch, plan


class Backend(Protocol):
    """Starts the runs of a sweep somewhere."""

    def environment(self, configs: Sequence[Config]) -> Mapping[str, str]:
        """Environment variables of processes that run these configs on this machine."""

    def describe(self, runs: int) -> str:
        """What a dry run shows of how runs would be started."""

    def run(self, sweep: Sweep, todo: Sequence[Run], warm: Sequence[Run], client: NurseryClient) -> bool:
        """Bring the runs to their end; False if stopped before (by the user, or nobody waits).

        Args:
            sweep: all runs.
            todo: those to start.
            warm: one run of each group that shares stages; these are built first.
            client: a nursery on this machine that has imported everything.
        """


def execute(configs: Sequence[Config], base: Config, backend: Backend) -> int:
    """Run a sweep (of one run, perhaps). Returns the exit code."""
    memory = {"command": " ".join(sys.orig_argv), "git": git_state()}
    with nursery(backend.environment(configs)) as client:
        drawn, distinct = plan(configs, base, **memory)
        shared = dict(
            zip((run.folder.name for run in drawn.runs), client.check(list(map(dump, distinct))), strict=True)
        )
        if configs[0].sweep.dry_run:
            print(describe_plan(drawn, distinct, backend, shared))
            return 0
        sweep, todo = launch(configs, base, configs[0].sweep.retry, **memory)
        _say_what_is_left_out(sweep, todo)
        with following(sweep) as finish:
            waited = backend.run(sweep, todo, _sharing(todo, shared), client) if todo else True
            follower = finish()
    print_summary(sweep, follower)
    if not waited:
        return 130
    return 0 if all(status.state is State.FINISHED for _, status in sweep.status()) else 1


def _sharing(todo: Sequence[Run], shared: Mapping[str, str]) -> list[Run]:
    """One run of every group that shares stages with another one that is to run."""
    counts = Counter(shared[run.folder.name] for run in todo)
    first: dict[str, Run] = {}
    for run in todo:
        first.setdefault(shared[run.folder.name], run)
    return [run for key, run in first.items() if counts[key] > 1]


def _say_what_is_left_out(sweep: Sweep, todo: Sequence[Run]) -> None:
    states = Counter(status.state for run, status in sweep.status() if run not in todo)
    if not states:
        return
    words = ", ".join(f"{count} {state.value}" for state, count in states.items())
    hint = "" if set(states) == {State.FINISHED} else " (sweep.retry=failed starts those that did not finish again)"
    print(f"robustalign: {len(todo)} of {len(sweep.runs)} runs to do; kept: {words}{hint}", file=sys.stderr)
