"""The files of runs in a store: reading them, and attaching reports and models."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlparse

import pandas as pd

from robustalign.errors import ConfigError
from robustalign.tracking.store import open_store

WANTED = ("config.yaml", "results")


def local_files(uri: str, table: pd.DataFrame, downloads: Path) -> list[Path]:
    """For each run of a ``runs_table`` the folder with its files: the store's own, or a copy below ``downloads``."""
    places = list(zip(table["run_id"], table["artifact_dir"], table["status"], strict=True))
    remote = [place for place in places if _own(place[1]) is None]
    if remote:
        client = open_store(uri)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda place: _download(client, place[0], place[2], downloads), remote))
    return [_own(place) or downloads / run_id for run_id, place, _ in places]


def histories(uri: str, run_ids: Sequence[str], names: Sequence[str]) -> pd.DataFrame:
    """Metrics over steps: columns ``run_id name step value``, one row for each step, with its latest value."""
    client = open_store(uri)
    rows = [
        (run_id, name, point.step, point.value, point.timestamp)
        for run_id in run_ids
        for name in names
        for point in client.get_metric_history(run_id, name)
    ]
    frame = pd.DataFrame(rows, columns=["run_id", "name", "step", "value", "time"])
    keys = ["run_id", "name", "step"]
    return (
        frame.sort_values("time", kind="stable").drop_duplicates(keys, keep="last").sort_values(keys)[[*keys, "value"]]
    )


def attach_report(uri: str, run_id: str, folder: Path, words: str) -> None:
    """Attach a report's folder and words to a run, in place of those of an earlier call."""
    from robustalign.tracking.note import write_note

    client = open_store(uri)
    client.log_artifacts(run_id, str(folder), artifact_path="report")
    write_note(client, run_id, findings=words)


def attach_model(uri: str, identity: str, folder: Path) -> None:
    """Log an exported policy as the artefact ``model`` of every entry that the store has of a run.

    Raises:
        ConfigError: the store knows no run of that identity.
    """
    client = open_store(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`robustalign.identity` LIKE '{identity}%'")
    if not runs:
        raise ConfigError("tracking.uri", f"no run {identity!r} in this store; bring it in with robustalign sync")
    for run in runs:
        client.log_artifacts(run.info.run_id, str(folder), artifact_path="model")


def _own(artifact_dir: str) -> Path | None:
    """The folder behind a URI; None if it is not on this machine."""
    parsed = urlparse(artifact_dir)
    return Path(unquote(parsed.path)) if parsed.scheme in ("file", "") else None


def _download(client, run_id: str, status: str, downloads: Path) -> None:
    folder = downloads / run_id
    if status == "FINISHED" and (folder / "results" / "targets.csv").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = {item.path for item in client.list_artifacts(run_id)}
    for name in WANTED:
        if name in names:
            client.download_artifacts(run_id, name, str(folder))
