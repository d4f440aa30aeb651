"""Imports the journals of a sweep into its tracking store while it runs, in a thread of the launching process."""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from robustalign.errors import ConfigError
from robustalign.locks import Lock
from robustalign.run import journal
from robustalign.run.folder import State, Status
from robustalign.run.identity import flat
from robustalign.stores import hide
from robustalign.sweeps.sweep import Run, Sweep

COMPARED = (
    "method.name",
    "method.radius",
    "method.temperature",
    "method.beta",
    "seed",
    "shift.name",
    "model.name",
    "trainer.learning_rate",
    "trainer.batch_size",
    "trainer.max_steps",
)
FILES = ("config.yaml", "environment.json", "traceback.txt", "results")
TRAINING = "workflowType=machine_learning"  # else a browser that is new to MLflow shows pages for traces of chats
SECONDS = 3.0  # between two looks at the journals


class SweepImporter:
    """Imports a sweep's journals into its store."""

    def __init__(self, sweep: Sweep, uri: str | None = None, experiment: str | None = None) -> None:
        from robustalign.tracking import Importer

        self.sweep = sweep
        self.uri = uri or sweep.mlruns
        self.importer = Importer(self.uri, experiment or sweep.tracking.experiment, sweep.output / "mlartifacts")
        self.lock = Lock(sweep.folder / "import.lock")  # one importer at a time, wherever it runs
        self.parent: str | None = None
        if len(sweep.runs) > 1:
            tags = {"robustalign.command": sweep.command, **self._source()}
            with self.lock:
                self.parent = self.importer.sweep(sweep.id, f"sweep of {len(sweep.runs)}", tags)
        self.ids: dict[str, str] = {}  # of the runs in the store, by folder name
        self._frozen: dict[str, dict[str, Any]] = {}
        self._done: dict[str, float | None] = {}  # end times of the runs that were imported whole, by folder name

    def update(self) -> None:
        """Import what the journals have gained since the last call."""
        with self.lock:
            self._update()

    def _update(self) -> None:
        for run in self.sweep.runs:
            name, status = run.folder.name, run.folder.status()
            if self._done.get(name) == status.updated:
                continue
            if status.state is State.PENDING and name not in self.ids:  # else its duration would count the waiting
                continue
            records = partial(journal.read_from, run.folder.journal)
            self.ids[name] = self.importer.bring(self._view(run, status), records, self.parent)
            if status.state.ended:  # its journal grows only if somebody starts it again
                self._done[name] = status.updated

    def close(self) -> None:
        """Import the rest, and set the final state of the sweep's parent run."""
        self.update()
        if self.parent is not None:
            states = {status.state for _, status in self.sweep.status()}
            going = states & {State.RUNNING}
            ended = "RUNNING" if going else "FINISHED" if states == {State.FINISHED} else "FAILED"
            if State.FAILED not in states and states - {State.FINISHED, State.RUNNING}:
                ended = "RUNNING" if going else "KILLED"
            note = f"`{self.sweep.command}`\n\n[Compare its {len(self.ids)} runs]({self.link()})"
            self.importer.end_sweep(self.parent, ended, note, self._shifts())

    def link(self) -> str:
        """The address, below the UI's, of the page that compares the sweep's runs."""
        import json
        from urllib.parse import quote

        runs = quote(json.dumps(list(self.ids.values())[:100], separators=(",", ":")))
        experiments = quote(json.dumps([self.importer.experiment]))
        if len(self.ids) == 1:
            return f"/#/experiments/{self.importer.experiment}/runs/{next(iter(self.ids.values()))}?{TRAINING}"
        return f"/#/compare-runs?runs={runs}&experiments={experiments}&{TRAINING}"

    def table(self) -> str:
        """The address, below the UI's, of the table of the experiment's runs."""
        return f"/#/experiments/{self.importer.experiment}/runs?{TRAINING}"

    def _source(self) -> dict[str, str]:
        """What the UI shows as source and version, and the state of the repository."""
        tags = {"mlflow.source.name": self.sweep.command, "mlflow.source.type": "LOCAL", **self.sweep.git}
        return tags | ({"mlflow.source.git.commit": sha} if (sha := self.sweep.git.get("git.sha")) else {})

    def _shifts(self) -> dict[str, str]:
        """What separates each shift's targets from its nominal population, by where it is attached."""
        names: dict[str, str] = {}  # by content
        for run in self.sweep.runs:
            file, config = run.folder.results / "shift.csv", self._frozen.get(run.folder.name) or {}
            if file.is_file() and (text := file.read_text()) not in names:
                same = sum(name.startswith(config["shift"]["name"]) for name in names.values())
                names[text] = f"{config['shift']['name']}{f'_{same + 1}' if same else ''}"
        return {f"shift/{name}.csv": text for text, name in names.items()}

    def _view(self, run: Run, status: Status) -> Any:
        from robustalign.tracking import RunView

        config = self._frozen.setdefault(run.folder.name, {}) or run.folder.frozen() or {}
        self._frozen[run.folder.name] = config
        values = flat(config)
        keys = dict.fromkeys((*COMPARED, *self.sweep.varying))
        tags: dict[str, str | None] = {
            "robustalign.identity": run.folder.name,
            "robustalign.sweep": self.sweep.id,
            "robustalign.method": values.get("method.name"),
            "robustalign.shift": values.get("shift.name"),
            "robustalign.model": values.get("model.name"),
            "robustalign.error": status.error,
            "robustalign.folder": str(run.folder.path),
            "robustalign.attempts": str(status.attempts),
            **self._source(),
            **{f"slurm.{key}": value for key, value in status.slurm.items()},
        }
        return RunView(
            uid=status.uid,
            name=run.name,
            state=str(status.state),
            folder=run.folder.path,
            started=status.started,
            ended=status.ended,
            params={
                **{key: values.get(key) for key in keys},
                "label": run.label or config.get("label") or values.get("method.name"),
            },
            tags=tags,
            files=FILES,
        )


class ImportThread:
    """Imports in a thread, so that a slow or unreachable store delays no run."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.sweep_importer: SweepImporter | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def finish(self) -> SweepImporter | None:
        """Import the rest; None if the store could not be reached (the journals are kept)."""
        self._stop.set()
        self._thread.join()
        return self.sweep_importer

    def _go(self) -> None:
        complained = False
        while True:
            last = self._stop.wait(0 if self.sweep_importer is None else SECONDS)
            try:
                self.sweep_importer = self.sweep_importer or SweepImporter(self.sweep)
                (self.sweep_importer.close if last else self.sweep_importer.update)()
            except Exception as error:
                if last or not complained:
                    _complain(error)
                complained = True
                if last:
                    self.sweep_importer = None
                elif self.sweep_importer is None:
                    self._stop.wait(10 * SECONDS)
            if last:
                return


def _complain(error: Exception) -> None:
    if not isinstance(error, ConfigError):
        print(hide("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    later = "the runs go on, their journals can be imported later: robustalign sync"
    print(f"robustalign: warning: {hide(str(error))}; {later}", file=sys.stderr)


@contextlib.contextmanager
def importing(sweep: Sweep) -> Iterator[Callable[[], SweepImporter | None]]:
    """Import the journals of a sweep while the block runs.

    Yields:
        A function that imports the rest, to be called at the end of the block; it returns None where the store could
        not be reached.
    """
    if sweep.tracking.kind != "mlflow":
        yield lambda: None
        return
    thread = ImportThread(sweep)
    yield thread.finish
