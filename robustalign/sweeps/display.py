"""What a sweep prints: its plan, its progress, and its results."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustalign.config import Config, most_pairs
from robustalign.progress import Pace
from robustalign.run.folder import State, Status
from robustalign.sweeps.mlflow_sync import SweepImporter
from robustalign.sweeps.sweep import Run, Sweep

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from robustalign.sweeps.backends.base import Backend

REDRAW = 0.5  # seconds between two pictures of the progress table
SHOWN = 3  # runs that a line names
LOOKING = 20  # and at least so many times what looking took


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def minutes(status: Status) -> float:
    """Minutes that a run has spent running."""
    going = time.time() - status.began if status.state is State.RUNNING and status.began else 0.0
    return (status.seconds + going) / 60


def describe_plan(sweep: Sweep, configs: Sequence[Config], backend: Backend, facts: Sequence[Mapping[str, Any]]) -> str:
    """What a dry run prints; ``facts`` are the answers of ``NurseryClient.check``."""
    rows = []
    groups = {key: str(number) for number, key in enumerate(dict.fromkeys(f["shared"] for f in facts), start=1)}
    for (run, status), config, one in zip(sweep.status(), configs, facts, strict=True):
        state = status.state.value if run.folder.frozen() is not None else "new"
        pairs = most_pairs(config)
        most = "?" if pairs is None else f"< {2 * pairs * config.model.max_length:,}"
        tokens = most if one["tokens"] is None else f"~ {one['tokens']:,}"
        build = " ".join(one["to_build"]) or "nothing"
        rows.append((run.name, run.folder.name, state, groups[one["shared"]], build, tokens))
    head = ("run", "identity", "state", "shared stages", "of these to build", "training tokens")
    count = f"{len(sweep.runs)} runs, {len(groups)} sets of shared stages; nothing was started"
    works: dict[str, list[str]] = {}
    for (run, _), one in zip(sweep.status(), facts, strict=True):
        works.setdefault(one.get("estimate") or "no estimate: the model is not here", []).append(run.name)
    each = [f"{len(names)} x {work}" if len(works) > 1 else f"each run: {work}" for work, names in works.items()]
    return "\n".join([table(head, rows), "", count, backend.describe(configs), *each])


def print_summary(sweep: Sweep, sweep_importer: SweepImporter | None) -> None:
    """The table of runs, what failed and why, and where to look."""
    rows = sweep.status()
    print()
    print(table(("run", "state", "minutes", "folder"), [_row(run, status) for run, status in rows]))
    missing = [(run, status) for run, status in rows if status.state is not State.FINISHED and status.error]
    if missing:
        print("\n" + table(("not finished", "error", "log"), [_failure(run, status) for run, status in missing]))
    if sweep_importer is not None:
        served = sweep_importer.uri.startswith("http")
        address = sweep_importer.uri.rstrip("/") if served else "http://127.0.0.1:5000"
        print("" if served else f"\nMLflow:  mlflow ui --backend-store-uri {shlex.quote(sweep_importer.uri)}")
        print(f"Runs:    {address}{sweep_importer.table()}")
        print(f"Compare: {address}{sweep_importer.link()}")
    else:
        print("\nMLflow:  robustalign sync imports the journals")
    sys.stdout.flush()


def _row(run: Run, status: Status) -> tuple[str, ...]:
    return run.name, status.state.value, f"{minutes(status):.1f}", str(run.folder.path)


def _failure(run: Run, status: Status) -> tuple[str, ...]:
    return run.name, (status.error or "")[:160], str(run.folder.log)


class Progress:
    """Shows a sweep as it goes: one live table on a terminal, a line a change elsewhere."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.steps: dict[str, int | None] = {}
        self.states = {run.folder.name: status.state for run, status in sweep.status()}
        self.last_draw = self.took = 0.0
        self.live = self._live() if sys.stderr.isatty() else None
        self.pace = Pace("sweep", len(sweep.runs), "runs", done=self._parts(sweep.status()))

    def __enter__(self) -> Progress:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.update(now=True)
        if self.live is not None:
            self.live.stop()

    def update(self, now: bool = False) -> None:
        """Read the status files and redraw, if enough time has passed."""
        start = time.monotonic()
        if not now and start - self.last_draw < max(REDRAW, LOOKING * self.took):
            return
        rows = self.sweep.status()
        changed = [(run, status) for run, status in rows if status.state is not self.states[run.folder.name]]
        for run, status in changed:
            self.states[run.folder.name] = status.state
            if self.sweep.watch is not None:
                self.sweep.watch(run, status)
        if self.live is not None:
            self.live.update(self._picture(rows), refresh=True)
        else:
            self._lines(changed, rows)
            if self.pace.due and len(rows) > 1:  # the log of a single run, which is shown as it grows, says the same
                self.pace.update(self._parts(rows), self._at_work(rows))
        self.last_draw = time.monotonic()
        self.took = self.last_draw - start

    def _lines(self, changed: Sequence[tuple[Run, Status]], rows: Sequence[tuple[Run, Status]]) -> None:
        finished = sum(status.state is State.FINISHED for _, status in rows)
        for run, status in changed:
            error = f": {status.error}" if status.error else ""
            print(f"[{finished}/{len(rows)}] {run.name}: {status.state.value}{error}", file=sys.stderr)

    def _parts(self, rows: Sequence[tuple[Run, Status]]) -> float:
        """Runs that ended, and the parts of those that go on."""
        going = [(run, status) for run, status in rows if status.state is State.RUNNING]
        parts = [status.step / (self._max_steps(run) or float("inf")) for run, status in going]
        return sum(status.state.ended for _, status in rows) + sum(parts)

    def _at_work(self, rows: Sequence[tuple[Run, Status]]) -> str:
        going = [(run, status) for run, status in rows if status.state is State.RUNNING]
        steps = ", ".join(f"{run.name}: step {self._step(run, status)}" for run, status in going[:SHOWN])
        return steps + (f" and {len(going) - SHOWN} more" if len(going) > SHOWN else "")

    def _live(self) -> Live:
        from rich.console import Console
        from rich.live import Live

        return Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def _picture(self, rows: Sequence[tuple[Run, Status]]) -> Table:
        from rich.table import Table

        counts = Counter(status.state.value for _, status in rows)
        title = f"{len(rows)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items())
        picture = Table("run", "state", "step", "minutes", "error", title=title, title_justify="left")
        visible = [row for row in rows if row[1].state not in (State.FINISHED, State.PENDING)]
        for run, status in visible[-30:]:
            step = self._step(run, status)
            picture.add_row(run.name, status.state.value, step, f"{minutes(status):.1f}", (status.error or "")[:60])
        return picture

    def _step(self, run: Run, status: Status) -> str:
        steps = self._max_steps(run)
        return str(status.step) if steps is None else f"{status.step}/{steps}"

    def _max_steps(self, run: Run) -> int | None:
        """None where ``trainer.epochs`` says how long a run is."""
        if run.folder.name not in self.steps:
            frozen = run.folder.frozen() or {}
            self.steps[run.folder.name] = frozen.get("trainer", {}).get("max_steps", 0)
        return self.steps[run.folder.name]
