"""From configs to an exit code: check, freeze, run, import, report."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from robustalign.config import Config
from robustalign.run.folder import State, Status
from robustalign.stores import hide
from robustalign.sweeps import backends
from robustalign.sweeps.backends.base import Backend, Outcome
from robustalign.sweeps.display import describe_plan, print_summary
from robustalign.sweeps.fork_client import NurseryClient
from robustalign.sweeps.git import git_state
from robustalign.sweeps.mlflow_sync import importing
from robustalign.sweeps.sweep import Run, Sweep, launch, plan, start_over


def restore(sweep: Sweep) -> Backend:
    """The backend that a sweep was launched with."""
    return backends.load(sweep.launcher["kind"])(**sweep.launcher["options"])


def execute(
    configs: Sequence[Config],
    base: Config,
    backend: Backend,
    client: NurseryClient,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[Run, Status], None] | None = None,
) -> int:
    """Run a sweep (of one run, perhaps). Returns the exit code.

    Args:
        configs: of the runs.
        base: the config without overrides.
        backend: what starts them.
        client: a nursery that checks the configs.
        environment: variables that every run sees beside those of this process.
        watch: called with every change of a run's state.
    """
    memory: dict[str, Any] = {
        "command": shlex.join(map(hide, sys.orig_argv)),
        "git": git_state(),
        "launcher": backend.memory(),
    }
    memory |= {"environment": dict(environment or {}), "watch": watch}
    planned, distinct = plan(configs, base, **memory)
    backend.check(distinct)
    dry = configs[0].sweep.dry_run
    answers = client.check(list(map(asdict, distinct)), outlook=dry, env=planned.environment)
    for line in dict.fromkeys(line for reply in answers for line in reply["lines"]):
        print(f"robustalign: {line}", file=sys.stderr)
    if dry:
        print(describe_plan(planned, distinct, backend, answers))
        return 0
    sweep, todo = launch(configs, base, configs[0].sweep.retry, backend.look, **memory)
    _say_what_is_left_out(sweep, todo)
    _compare_inputs(sweep.runs, todo, answers)
    return _carry_on(sweep, todo, backend, client, _shared(planned.runs, answers))


def resume(sweep: Sweep, todo: Sequence[Run], backend: Backend) -> int:
    """Go on with some runs of a sweep that was launched before. Returns the exit code."""
    if not todo:
        return _carry_on(sweep, [], backend, None, {})
    configs = [run.folder.config() for run in todo]
    with contextlib.closing(NurseryClient()) as client:
        answers = client.check(list(map(asdict, configs)), env=sweep.environment)
        _compare_inputs(todo, todo, answers)
        return _carry_on(sweep, todo, backend, client, _shared(todo, answers))


def _carry_on(
    sweep: Sweep, todo: Sequence[Run], backend: Backend, client: NurseryClient | None, shared: Mapping[str, str]
) -> int:
    outcome = Outcome.DONE
    with importing(sweep) as finish:
        if client is not None and todo:
            outcome = backend.run(sweep, todo, _sharing(todo, shared), client)
        sweep_importer = finish()
    print_summary(sweep, sweep_importer)
    if outcome is Outcome.STOPPED:
        print("robustalign: stopped; the same command goes on from here", file=sys.stderr)
    if outcome is Outcome.LEFT:
        look = f"robustalign sweep status {sweep.id} --output {sweep.output}"
        print(f"sweep {sweep.id} goes on without this command: {look}")
    if outcome is Outcome.DONE:
        return 0 if all(status.state is State.FINISHED for _, status in sweep.status()) else 1
    return 130 if outcome is Outcome.STOPPED else 0


def _shared(runs: Sequence[Run], answers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each run, by the name of its folder, the key of the stages that it shares."""
    return {run.folder.name: reply["shared"] for run, reply in zip(runs, answers, strict=True)}


def _sharing(todo: Sequence[Run], shared: Mapping[str, str]) -> list[Run]:
    """One run of every group that shares stages with another one that is to run."""
    counts = Counter(shared[run.folder.name] for run in todo)
    first: dict[str, Run] = {}
    for run in todo:
        first.setdefault(shared[run.folder.name], run)
    return [run for key, run in first.items() if counts[key] > 1]


def _compare_inputs(runs: Sequence[Run], todo: Sequence[Run], answers: Sequence[Mapping[str, Any]]) -> None:
    """Warn of runs whose data, model or code have changed since; unfinished ones start from the beginning."""
    outdated, restarted = Counter[str](), Counter[str]()
    for run, reply in zip(runs, answers, strict=True):
        if changed := ", ".join(run.folder.changed_inputs(reply["inputs"])):
            if run.folder.status().state is State.FINISHED:
                outdated[changed] += 1
            elif run in todo and run.folder.runner() is None:
                start_over(run.folder)
                restarted[changed] += 1
    for changed, count in outdated.items():
        text = f"{count} finished runs are OUTDATED: changed since: {changed}; sweep.retry=all runs them again"
        print(f"robustalign: warning: {text}", file=sys.stderr)
    for changed, count in restarted.items():
        print(f"robustalign: {count} interrupted runs start anew: changed since: {changed}", file=sys.stderr)


def _say_what_is_left_out(sweep: Sweep, todo: Sequence[Run]) -> None:
    states = Counter(status.state for run, status in sweep.status() if run not in todo)
    if not states:
        return
    words = ", ".join(f"{count} {state.value}" for state, count in states.items())
    hint = "" if set(states) == {State.FINISHED} else " (sweep.retry=failed starts those that did not finish again)"
    print(f"robustalign: {len(todo)} of {len(sweep.runs)} runs to do; kept: {words}{hint}", file=sys.stderr)
