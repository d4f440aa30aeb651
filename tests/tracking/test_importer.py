"""What runs told arrives in MLflow once, whole, and under its own times."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from functools import partial
from pathlib import Path

import pytest

from robustalign.errors import ConfigError
from robustalign.run.journal import Journal, read_from
from robustalign.tracking import Importer, RunView, open_store
from robustalign.tracking.files import attach_report
from robustalign.tracking.note import write_note
from robustalign.tracking.read import runs_table


def view(folder: Path, **changes) -> RunView:
    known = {
        "uid": "u1",
        "name": "kldpo seed=3",
        "state": "RUNNING",
        "folder": folder,
        "started": 1000.0,
        "params": {"method.name": "kldpo", "seed": 3, "method.radius": None},
        "tags": {"robustalign.sweep": "s1", "robustalign.error": None},
        "files": ("config.yaml", "results"),
    }
    return RunView(**(known | changes))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.params({"pairs": 10})
    journal.dataset("training_pairs", "f1", "train", 10)
    for step in (1, 2, 3):
        journal.metrics(step, {"train/loss": 1.0 / step, "eval/joy=0.5@x": float(step)})
    journal.tags({"device": "cpu"})
    return journal


def importer(uri: str, tmp_path: Path) -> Importer:
    return Importer(uri, "trial", tmp_path / "mlartifacts")


def bring(brings: Importer, seen: RunView, parent: str | None = None) -> str:
    return brings.bring(seen, partial(read_from, seen.folder / "journal.jsonl"), parent)


def test_an_artefact_that_runs_share_is_one_run(uri, tmp_path):
    facts = {
        "built": 5000.0,
        "seconds": 20.0,
        "params": {"options.epochs": "2.0"},
        "values": {"sft/after": 3.5},
        "losses": [5, 4],
    }
    for name in ("a", "b"):
        journal = Journal(tmp_path / name / "journal.jsonl")
        journal.stage("sft", "0123456789abcdef", **facts)
        journal.tags({"robustalign.artefacts": "sft/0123456789abcdef"})
        seen = view(journal.path.parent, uid=name, state="FINISHED", ended=6000.0)
        bring(importer(uri, tmp_path), seen)
        bring(importer(uri, tmp_path), seen)
    client = open_store(uri)
    experiment = client.get_experiment_by_name("trial").experiment_id
    (stage,) = client.search_runs([experiment], "tags.`robustalign.kind` = 'stage'")
    assert stage.info.run_name == "sft 01234567"
    assert (stage.info.status, stage.info.start_time, stage.info.end_time) == ("FINISHED", 4980000, 5000000)
    assert stage.data.params == {"options.epochs": "2.0"} and stage.data.metrics == {"sft/after": 3.5, "sft/loss": 4}
    assert [(m.step, m.value) for m in client.get_metric_history(stage.info.run_id, "sft/loss")] == [(1, 5), (2, 4)]
    table = runs_table(uri, "trial")
    assert len(table) == 2, "only the runs that use it are an experiment's results"
    assert set(table["tags.robustalign.artefacts"]) == {stage.data.tags["robustalign.artefact"]}


def test_everything_arrives_once_however_often_it_is_brought(uri, tmp_path, journal):
    run = journal.path.parent
    (run / "config.yaml").write_text("seed: 3\n")
    (run / "results").mkdir()
    (run / "results" / "table.csv").write_text("a\n1\n")
    for _ in range(3):  # each time as a new process would
        ids = {bring(importer(uri, tmp_path), view(run, state="FINISHED", ended=2000.0)) for _ in range(2)}
    (run_id,) = ids
    client = open_store(uri)
    stored = client.get_run(run_id)
    assert (stored.info.status, stored.info.start_time, stored.info.end_time) == ("FINISHED", 1_000_000, 2_000_000)
    assert stored.data.params == {"method.name": "kldpo", "seed": "3", "pairs": "10"}
    assert stored.data.tags["device"] == "cpu"
    assert "robustalign.error" not in stored.data.tags
    history = client.get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    told = [r["time"] for r, _ in read_from(journal.path, 0) if r["kind"] == "metrics"]
    assert [m.timestamp for m in history] == told
    assert len(client.get_metric_history(run_id, "eval/joy_0.5_x")) == 3
    assert sorted(f.path for f in client.list_artifacts(run_id)) == ["config.yaml", "results"]
    (used,) = stored.inputs.dataset_inputs
    assert used.dataset.name == "training_pairs"
    assert {tag.key: tag.value for tag in used.tags}["robustalign.fingerprint"] == "f1"
    assert Path(stored.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path / "mlartifacts")


def test_it_goes_on_where_the_store_says_even_if_the_mark_was_lost(uri, tmp_path, journal):
    run_id = bring(importer(uri, tmp_path), view(journal.path.parent))
    client = open_store(uri)
    client.set_tag(run_id, "robustalign.imported", "0")  # a kill between the metrics and the mark
    journal.metrics(4, {"train/loss": 0.1})
    assert bring(importer(uri, tmp_path), view(journal.path.parent)) == run_id
    assert [m.step for m in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3, 4]


def test_a_failure_is_visible_and_goes_when_a_retry_succeeds(uri, tmp_path, journal):
    run = journal.path.parent
    (run / "traceback.txt").write_text("Traceback ...")
    files = ("traceback.txt",)
    tags = {"robustalign.sweep": "s1", "robustalign.error": "ValueError: no"}
    brings = importer(uri, tmp_path)
    run_id = bring(brings, view(run, state="FAILED", tags=tags, files=files))
    client = open_store(uri)
    stored = client.get_run(run_id)
    assert (stored.info.status, stored.data.tags["robustalign.error"]) == ("FAILED", "ValueError: no")
    assert [f.path for f in client.list_artifacts(run_id)] == ["traceback.txt"]
    bring(brings, view(run, state="RUNNING"))
    assert client.get_run(run_id).info.status == "RUNNING"
    bring(brings, view(run, state="FINISHED", ended=3000.0))
    stored = client.get_run(run_id)
    assert stored.info.status == "FINISHED"
    assert "robustalign.error" not in stored.data.tags


@pytest.mark.parametrize(
    ("state", "status"),
    [("KILLED", "KILLED"), ("CANCELLED", "KILLED"), ("PREEMPTED", "KILLED"), ("PENDING", "SCHEDULED")],
)
def test_every_state_has_a_status(uri, tmp_path, journal, state, status):
    run_id = bring(importer(uri, tmp_path), view(journal.path.parent, state=state))
    stored = open_store(uri).get_run(run_id)
    assert (stored.info.status, stored.data.tags["robustalign.status"]) == (status, state)


def test_a_run_of_two_sweeps_is_a_child_of_both(uri, tmp_path, journal):
    brings = importer(uri, tmp_path)
    ids = []
    for sweep in ("s1", "s2"):
        parent = brings.sweep(sweep, "sweep of 1", {})
        assert brings.sweep(sweep, "sweep of 1", {}) == parent
        child = view(journal.path.parent, tags={"robustalign.sweep": sweep})
        ids.append(bring(importer(uri, tmp_path), child, parent))
    assert len(set(ids)) == 2
    assert len(runs_table(uri, "trial")) == 2
    table = runs_table(uri, "trial", parent="s2")
    assert list(table["run_id"]) == ids[1:]
    assert list(table["metrics.train/loss"]) == [pytest.approx(1 / 3)]
    assert list(table["params.seed"]) == ["3"]


def import_from_start(uri: str, tmp_path: Path, folder: Path) -> None:
    bring(importer(uri, tmp_path), view(folder))


def test_many_importers_on_an_empty_folder_make_one_store_and_one_run(migrated, tmp_path, journal):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=import_from_start, args=(uri, tmp_path, journal.path.parent)) for _ in range(3)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0, 0]
    table = runs_table(uri, "trial")
    assert len(table) == 1
    assert len(open_store(uri).get_metric_history(table["run_id"][0], "train/loss")) == 3
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_odd_numbers_and_long_texts_pass(uri, tmp_path, journal):
    journal.metrics(5, {"train/loss": float("nan"), "train/norm": float("inf")})
    journal.params({"long": "x" * 10_000})
    run_id = bring(importer(uri, tmp_path), view(journal.path.parent))
    stored = open_store(uri).get_run(run_id)
    assert stored.data.metrics["train/norm"] > 1e300
    assert len(stored.data.params["long"]) < 6000


def test_what_cannot_be_opened_is_the_users_to_fix(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}")


def test_a_missing_experiment_names_those_there_are(uri, tmp_path):
    importer(uri, tmp_path)
    with pytest.raises(ConfigError, match="trial"):
        runs_table(uri, "other")
    assert runs_table(uri, "trial").empty
    assert json.dumps(list(runs_table(uri, "trial").columns))


def test_a_sweep_says_how_it_was_made_and_keeps_what_a_report_found(uri, tmp_path):
    brings = importer(uri, tmp_path)
    parent = brings.sweep("s1", "sweep of 2", {"mlflow.source.name": "train.py -m seed=0,1"})
    brings.end_sweep(parent, "FINISHED", "`train.py`", {"shift/none.csv": "target\njoy\n"})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "summary.md").write_text("words")
    for words in ("first", "second"):  # a report that is made again
        attach_report(uri, parent, folder, words)
    brings.sweep("s1", "sweep of 2", {})
    brings.end_sweep(parent, "FINISHED", "`train.py` again", {})
    stored = open_store(uri).get_run(parent)
    assert stored.data.tags["mlflow.note.content"] == "`train.py` again\n\n---\n\nsecond"
    assert sorted(f.path for f in open_store(uri).list_artifacts(parent)) == ["report", "shift"]


def test_a_description_longer_than_a_tag_is_cut_at_a_line(uri, tmp_path):
    brings = importer(uri, tmp_path)
    parent = brings.sweep("s1", "sweep of 2", {})
    write_note(brings.client, parent, origin="made", findings="\n".join(["a line of words"] * 1000))
    note = open_store(uri).get_run(parent).data.tags["mlflow.note.content"]
    assert 7000 < len(note) < 8000 and note.endswith("a line of words\n\n(more in the artefacts)")


def test_an_experiment_that_was_made_by_hand_is_one_of_training_too(uri, tmp_path):
    client = open_store(uri)
    made = client.create_experiment("trial")
    client.delete_experiment(made)
    assert importer(uri, tmp_path).experiment == made
    assert client.get_experiment(made).tags["mlflow.experimentKind"] == "custom_model_development"
    client.set_experiment_tag(made, "mlflow.experimentKind", "finetuning")
    importer(uri, tmp_path)
    assert client.get_experiment(made).tags["mlflow.experimentKind"] == "finetuning"
