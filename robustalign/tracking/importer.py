"""Imports the journals and files of runs into MLflow. Importing twice stores nothing twice."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustalign.names import stored
from robustalign.stores import sqlite_file
from robustalign.tracking.store import open_store, store_lock

STATES = {
    "PENDING": "SCHEDULED",
    "RUNNING": "RUNNING",
    "FINISHED": "FINISHED",
    "FAILED": "FAILED",
    "KILLED": "KILLED",
    "CANCELLED": "KILLED",
    "PREEMPTED": "KILLED",
}
METRICS_A_BATCH = 900  # MLflow takes 1000
PARAMS_A_BATCH = 90  # MLflow takes 100
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI then offers what is for training
LONGEST_PARAM = 5900
LONGEST_TAG = 7900

Records = Callable[[int], Iterator[tuple[dict[str, Any], int]]]  # a journal's records from an offset on


@dataclass
class RunView:
    """The facts about a run that the store gets beside its journal."""

    uid: str
    name: str
    state: str
    folder: Path
    started: float | None = None
    ended: float | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str | None] = field(default_factory=dict)  # an empty value removes the tag
    files: tuple[str, ...] = ()  # in the folder, attached when the run ends


@dataclass
class _StoredRun:
    """What the store already has of a run."""

    run_id: str
    offset: int
    state: str
    tags: dict[str, str]


class Importer:
    """Imports runs into one experiment of one store.

    A run is found again by its uid and its sweep. A tag in the store says up to which byte its journal was imported,
    and metrics carry the journal's time stamps, so a metric that is sent twice is stored once.
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri = uri
        self.client = open_store(uri)
        self.experiment = self._experiment(experiment, artifacts)
        self._stored_runs: dict[str, _StoredRun] = {}
        self._stages: set[str] = set()

    def sweep(self, sweep: str, name: str, tags: Mapping[str, str]) -> str:
        """The id of a sweep's parent run, which is created if there is none."""
        with self._creating():
            if run := self._find(f"tags.`robustalign.kind` = 'sweep' and tags.`robustalign.sweep` = '{sweep}'"):
                self.client.update_run(run.info.run_id, status="RUNNING")
                return run.info.run_id
            own = {"robustalign.kind": "sweep", "robustalign.sweep": sweep, "mlflow.runName": name}
            run = self.client.create_run(self.experiment, tags={**own, **_clean_tags(tags)})
            return run.info.run_id

    def end_sweep(self, run_id: str, status: str, note: str, files: Mapping[str, str]) -> None:
        """Set the parent's final status and the first part of its description, and attach texts by path."""
        from robustalign.tracking.note import write_note

        write_note(self.client, run_id, origin=note)
        for path, text in files.items():
            self.client.log_text(run_id, text, path)
        self.client.set_terminated(run_id, status)

    def bring(self, view: RunView, records: Records, parent: str | None) -> str:
        """Import what a run has gained since the last call. Returns its id in the store."""
        stored_run = self._stored_runs.get(view.uid) or self._find_or_create(view, parent)
        self._stored_runs[view.uid] = stored_run
        stored_run.offset = self._journal(stored_run, view, records)
        self._tags(stored_run, view)
        if stored_run.state != view.state:
            self._state(stored_run, view)
        return stored_run.run_id

    def _journal(self, stored_run: _StoredRun, view: RunView, records: Records) -> int:
        offset, metrics = stored_run.offset, []
        tags: dict[str, str] = {}
        for record, behind in records(stored_run.offset):
            kind, offset = record["kind"], behind
            if kind == "metrics":
                metrics += _metrics(record)
            elif kind == "tags":
                tags.update(record["values"])
            elif kind == "params":
                self._params(stored_run.run_id, record["values"])
            elif kind == "dataset":
                self._dataset(stored_run.run_id, record)
            elif kind == "stage":
                self._stage(record)
            elif kind == "artifact":
                self._attach(stored_run.run_id, view.folder, record["path"])
        if offset == stored_run.offset:
            return offset
        self._log(stored_run.run_id, metrics)
        self._set_tags(stored_run, {**tags, "robustalign.imported": str(offset)})
        return offset

    def _log(self, run_id: str, metrics: Sequence[Any]) -> None:
        for start in range(0, len(metrics), METRICS_A_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_BATCH], synchronous=True)

    def _state(self, stored_run: _StoredRun, view: RunView) -> None:
        status = STATES[view.state]
        if view.state in ("FINISHED", "FAILED", "KILLED", "CANCELLED", "PREEMPTED"):
            for name in view.files:
                self._attach(stored_run.run_id, view.folder, name)
            ended = int((view.ended or time.time()) * 1000)
            self.client.set_terminated(stored_run.run_id, status, end_time=ended)
        else:
            self.client.update_run(stored_run.run_id, status=status)
        self._set_tags(stored_run, {"robustalign.status": view.state})
        stored_run.state = view.state

    def _tags(self, stored_run: _StoredRun, view: RunView) -> None:
        self._set_tags(stored_run, {name: value for name, value in view.tags.items() if value})
        for name in [name for name, value in view.tags.items() if not value and name in stored_run.tags]:
            self.client.delete_tag(stored_run.run_id, name)
            del stored_run.tags[name]

    def _set_tags(self, stored_run: _StoredRun, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        new = {name: value for name, value in _clean_tags(tags).items() if stored_run.tags.get(name) != value}
        if new:
            self.client.log_batch(stored_run.run_id, tags=[RunTag(*item) for item in new.items()], synchronous=True)
            stored_run.tags.update(new)

    def _params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(stored(key), str(value)[:LONGEST_PARAM]) for key, value in values.items() if value is not None]
        for start in range(0, len(params), PARAMS_A_BATCH):
            self.client.log_batch(run_id, params=params[start : start + PARAMS_A_BATCH], synchronous=True)

    def _dataset(self, run_id: str, record: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = hashlib.sha256(record["fingerprint"].encode()).hexdigest()[:8]
        profile = f'{{"num_rows": {record["rows"]}}}'
        dataset = Dataset(record["name"], digest, "local", '{"uri": "cache"}', profile=profile)
        tags = [
            InputTag("mlflow.data.context", record["context"]),
            InputTag("robustalign.fingerprint", record["fingerprint"]),
        ]
        self.client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def _stage(self, record: Mapping[str, Any]) -> None:
        """A shared artefact as a run, once for all runs of the experiment that use it."""
        artefact = f"{record['stage']}/{record['digest']}"
        if artefact in self._stages:
            return
        began, ended = (int(1000 * time) for time in (record["built"] - record["seconds"], record["built"]))
        words = [record["stage"], record["params"].get("split", ""), record["digest"][:8]]
        tags = {
            "robustalign.kind": "stage",
            "robustalign.artefact": artefact,
            "mlflow.runName": " ".join(filter(None, words)),
        }
        with self._creating():
            run = self._find(f"tags.`robustalign.artefact` = '{artefact}'")
            run = run or self.client.create_run(self.experiment, start_time=began, tags=tags)
        if run.info.status == "RUNNING":
            self._params(run.info.run_id, record["params"])
            metrics: list[Any] = []
            curve = [{f"{record['stage']}/loss": loss} for loss in record["losses"]]
            for step, values in enumerate([record["values"], *curve]):
                metrics += _metrics({"values": values, "time": ended, "step": step})
            self._log(run.info.run_id, metrics)
            self.client.set_terminated(run.info.run_id, end_time=ended)
        self._stages.add(artefact)

    def _attach(self, run_id: str, folder: Path, name: str) -> None:
        path = folder / name
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), artifact_path=name)
        elif path.is_file():
            parent = str(Path(name).parent)
            self.client.log_artifact(run_id, str(path), artifact_path=None if parent == "." else parent)

    def _find_or_create(self, view: RunView, parent: str | None) -> _StoredRun:
        sweep = view.tags.get("robustalign.sweep")
        query = f"tags.`robustalign.uid` = '{view.uid}' and tags.`robustalign.sweep` = '{sweep}'"
        with self._creating():
            run = self._find(query)
            if run is None:
                tags = {
                    "robustalign.kind": "run",
                    "robustalign.uid": view.uid,
                    "robustalign.sweep": sweep or "",
                    "mlflow.runName": view.name,
                } | ({"mlflow.parentRunId": parent} if parent else {})
                start = int((view.started or time.time()) * 1000)
                run = self.client.create_run(self.experiment, start_time=start, tags=tags)
        tags = dict(run.data.tags)
        self._params(run.info.run_id, {k: v for k, v in view.params.items() if stored(k) not in run.data.params})
        return _StoredRun(
            run_id=run.info.run_id,
            offset=int(tags.get("robustalign.imported", 0)),
            state=tags.get("robustalign.status", ""),
            tags=tags,
        )

    def _find(self, filter_string: str) -> Any:
        runs = self.client.search_runs([self.experiment], filter_string, max_results=1, order_by=["start_time ASC"])
        return runs[0] if runs else None

    def _experiment(self, name: str, artifacts: Path) -> str:
        with self._creating():
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                remote = self.uri.startswith("http")  # a server decides itself where artefacts are
                place = None if remote else artifacts.absolute().as_uri()
                return self.client.create_experiment(name, place, tags=KIND)
            if experiment.lifecycle_stage == "deleted":
                self.client.restore_experiment(experiment.experiment_id)
            for name, value in KIND.items():
                if name not in experiment.tags:  # the experiment was created by hand, or by an older version
                    self.client.set_experiment_tag(experiment.experiment_id, name, value)
            return experiment.experiment_id

    def _creating(self) -> contextlib.AbstractContextManager[Any]:
        """A lock that makes looking and creating one step for the processes that share a SQLite file."""
        file = sqlite_file(self.uri)
        return contextlib.nullcontext() if file is None else store_lock(file)


def _metrics(record: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(stored(name), value, record["time"], record["step"]) for name, value in record["values"].items()]


def _clean_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {stored(name): str(value)[:LONGEST_TAG] for name, value in tags.items()}
