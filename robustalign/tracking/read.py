"""The runs of an experiment as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from robustalign.errors import ConfigError, choices
from robustalign.tracking.store import open_store

PAGE = 1000


def runs_table(uri: str, experiment: str, parent: str | None = None) -> pd.DataFrame:
    """One row a run, in the order they were made.

    Columns: ``run_id name status parent start_time end_time artifact_dir`` (a URI), then ``params.*``,
    ``tags.*`` and ``metrics.*`` (the last value of each). Parents of sweeps are no rows.

    Args:
        uri: of the store.
        experiment: its name.
        parent: only the runs of this sweep (the id of its parent run, or of the sweep).

    Raises:
        ConfigError: there is no such experiment.
    """
    client = open_store(uri)
    stored = client.get_experiment_by_name(experiment)
    if stored is None:
        names = choices(e.name for e in client.search_experiments())
        raise ConfigError("tracking.experiment", f"no experiment {experiment!r} in {uri}; it has: {names}")
    rows = [_row(run) for run in _pages(client, stored.experiment_id)]
    if parent is not None:
        rows = [row for row in rows if parent in (row["parent"], row.get("tags.robustalign.sweep"))]
    columns = ["run_id", "name", "status", "parent", "start_time", "end_time", "artifact_dir"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def _pages(client: Any, experiment: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs(
            [experiment],
            "tags.`robustalign.kind` = 'run'",
            max_results=PAGE,
            order_by=["start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _row(run: Any) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "parent": tags.get("mlflow.parentRunId"),
        "start_time": pd.to_datetime(run.info.start_time, unit="ms", utc=True),
        "end_time": pd.to_datetime(run.info.end_time, unit="ms", utc=True),
        "artifact_dir": run.info.artifact_uri,
        **{f"params.{key}": value for key, value in run.data.params.items()},
        **{f"tags.{key}": value for key, value in tags.items()},
        **{f"metrics.{key}": value for key, value in run.data.metrics.items()},
    }
