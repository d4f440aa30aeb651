"""Sixteen processes start at once on an empty folder; some of them are killed."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from robustalign.config import Config
from robustalign.run import worker
from robustalign.run.folder import RunFolder, State, mark_if_dead
from robustalign.sweeps.mlflow_sync import SweepImporter
from robustalign.sweeps.sweep import Run, Sweep
from robustalign.tracking import open_store
from robustalign.tracking.read import runs_table
from tests.tracking.conftest import migrated

__all__ = ["migrated"]  # which imports MLflow once for all

fork = multiprocessing.get_context("fork")
STEPS = 30
PROGRAM = "sweep.program=tests.run.toy_program"
KILLED, STOPPED = ("+method.die_at=15",), ("+method.stop_at=15",)  # by SIGKILL and SIGTERM
FATES = {3: KILLED, 9: KILLED, 6: STOPPED, 12: STOPPED}


def sweep_of(folder: RunFolder) -> Sweep:
    config = folder.config()
    return Sweep(folder.path.parent.parent, [Run(folder, folder.name)], [], config.tracking)


def run_and_import(folder: RunFolder) -> None:
    """What one command does: build what is shared, run, and bring the journal into the store."""
    sweep_importer = SweepImporter(sweep_of(folder))
    worker.work(folder)
    sweep_importer.close()


@pytest.fixture
def folders(make: Callable[..., Config], tmp_path: Path) -> list[RunFolder]:
    made = []
    for seed in range(16):
        folder = RunFolder(tmp_path / "outputs" / "runs" / f"run{seed}")
        places = (f"paths.output={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
        fate = FATES.get(seed, ())
        folder.freeze(make(f"seed={seed}", f"trainer.max_steps={STEPS}", PROGRAM, "+method.pause=0.02", *places, *fate))
        made.append(folder)
    return made


def test_all_is_built_once_and_no_row_is_lost(folders, tmp_path, migrated):
    processes = [fork.Process(target=run_and_import, args=(folder,)) for folder in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [number for number, process in enumerate(processes) if process.exitcode] == [3, 9]
    assert (tmp_path / "cache" / "builds.txt").read_text() == "built\n"

    for folder in folders:
        mark_if_dead(folder)
        SweepImporter(sweep_of(folder)).close()
    states = Counter(folder.status().state for folder in folders)
    assert states == {State.FINISHED: 12, State.KILLED: 2, State.PREEMPTED: 2}
    uri = f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"
    table = runs_table(uri, folders[0].config().tracking.experiment)
    assert Counter(table["status"]) == {"FINISHED": 12, "KILLED": 4}
    client = open_store(uri)
    for run_id, status in zip(table["run_id"], table["status"], strict=True):
        told = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
        assert told == list(range(1, len(told) + 1))
        assert len(told) == STEPS or status == "KILLED"
