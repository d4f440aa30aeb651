"""The training of a reward model as a run of its own in MLflow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustalign.names import stored
from robustalign.tracking.importer import LONGEST_PARAM, LONGEST_TAG, Importer

FILES = ("README.md", "training.json")


def record_reward(
    uri: str,
    experiment: str,
    artifacts: Path,
    folder: Path,
    *,
    params: Mapping[str, str],
    curve: Sequence[Mapping[str, float]],
    figures: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    """Log the training whose result is in ``folder``; returns MLflow's id of the run.

    Args:
        uri: of the store.
        experiment: made if it is not there, with its files below ``artifacts``.
        params: the recipe.
        curve: losses by epoch, each with its number as ``epoch``.
        figures: held-out values by name.
        tags: such as ``weights``, the fingerprint that runs carry which use the model.

    Raises:
        ConfigError: the store cannot be reached.
    """
    from mlflow.entities import Metric, Param, RunTag

    importer, now = Importer(uri, experiment, artifacts), int(1000 * time.time())
    client = importer.client
    run = client.create_run(importer.experiment, run_name=folder.name)
    metrics = [
        Metric(f"reward/{name}", float(value), now, int(row["epoch"]))
        for row in curve
        for name, value in row.items()
        if name != "epoch"
    ]
    metrics += [Metric(stored(name), value, now, int(curve[-1]["epoch"])) for name, value in figures.items()]
    client.log_batch(
        run.info.run_id,
        metrics=metrics,
        params=[Param(name, value[:LONGEST_PARAM]) for name, value in params.items()],
        tags=[RunTag(name, value[:LONGEST_TAG]) for name, value in tags.items()],
    )
    for file in FILES:
        client.log_artifact(run.info.run_id, str(folder / file))
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
