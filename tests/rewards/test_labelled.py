"""The files that a reward model is trained on, and the command that trains it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from robustalign import fingerprints
from robustalign.cli.reward import main
from robustalign.pipeline.inputs import reward_weights
from robustalign.tracking.store import open_store
from tests.conftest import compose_config
from tests.rewards.test_training import texts

NAMES = "good\nbad\nneutral\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Rows of text, comma-separated label numbers and an id, without a first line, gzipped."""
    place = tmp_path_factory.mktemp("labelled")
    for split, (count, seed) in {"train": (300, 0), "dev": (60, 1), "test": (80, 2)}.items():
        with gzip.open(place / f"{split}.tsv.gz", "wt", encoding="utf-8") as file:
            for i, (text, label) in enumerate(zip(*texts(count, seed), strict=True)):
                numbers = [str(k) for k in (0, 1) if label[k]] or ["2"]
                file.write(f'say "{text}\t{",".join(numbers)}\tid{i}\n')
    (place / "names.txt").write_text(NAMES)
    return place


def words(folder: Path, to: Path, *more: str) -> list[str]:
    files = [str(folder / f"{split}.tsv.gz") for split in ("train", "dev", "test")]
    return [files[0], "--validation", files[1], "--test", files[2], "--header", "text,labels,id", "--to", str(to),
            "--names", str(folder / "names.txt"), "--learning-rate", "3e-3", "--epochs", "4", *more]  # fmt: skip


def test_the_command_leaves_a_classifier_and_its_figures(folder, tmp_path, capsys) -> None:
    groups = ("--group", "kind=good,neutral", "--group", "rude=bad", "--licence", "cc-by-4.0", "--join", "2")
    assert main(words(folder, tmp_path / "model", *groups)) == 0
    assert "| rude |" in capsys.readouterr().out
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "kind", 1: "rude"}
    card = (tmp_path / "model" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "300 train, 60 validation, 80 test" in card
    assert "- kind: good, neutral" in card and "robustalign reward" in card and "joined as in training" in card


def test_it_is_compared_with_a_scorer_that_is_there(folder, tmp_path, capsys) -> None:
    """The lexical rewards know nothing of these words: ours is better, theirs a coin."""
    more = ("--group", "ask=good", "--group", "rude=bad", "--against", "lexical")
    assert main(words(folder, tmp_path / "model", *more)) == 0
    told = capsys.readouterr().out.split("against `reward=lexical`")[1]
    assert "| ask | " in told and "| rude |" not in told and "| 0.500 [0.500, 0.500] |" in told


def test_its_training_is_a_run_whose_weights_the_runs_that_use_it_name(folder, tmp_path, capsys) -> None:
    """Lineage: texts -> reward model -> the run that scores by it, by one fingerprint."""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    more = ("--group", "rude=bad", "--track", "rewards", "--output", str(tmp_path), "--uri", store)
    assert main(words(folder, tmp_path / "model", *more)) == 0
    (run,) = open_store(store).search_runs(["1"])
    told = capsys.readouterr().out
    assert f"MLflow run {run.info.run_id} of experiment rewards" in told
    assert run.data.params["learning_rate"] == "0.003" and run.data.metrics["held_out/rude/auc"] > 0.9
    assert {"reward/train_loss", "reward/validation_loss"} <= set(run.data.metrics)
    assert run.data.tags["texts.train"] == fingerprints.of_file(folder / "train.tsv.gz")
    scorer = f"{{scorer: classifier, path: {tmp_path / 'model'}, label: rude}}"
    config = compose_config(f"+reward.rude={scorer}")
    assert reward_weights(config) == {"reward.rude.weights": run.data.tags["weights"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--text", "tekst"), "--text: the train file has no column 'tekst'; it has: id, labels, text"),
        (("--kind", "all"), "--kind: 'all' is unknown"),
        (("--kind", "single_label"), "--kind: row "),
        (("--names", "/nowhere"), "--names: cannot name a label"),
        (("--test", "/nowhere.tsv"), "--test: cannot read /nowhere.tsv"),
        (("--test", "/nowhere.xls"), "--test: /nowhere.xls is no .csv, .tsv, .jsonl or .parquet"),
        (("--against", "moods"), "--against: no rewards 'moods'; choose one of: "),
        (("--against", "lexical"), "--against: lexical has none of: bad, good, neutral; it has: ask, short"),
        (("--learning-rate", "1e20"), "--learning-rate: the loss is"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, change, message) -> None:
    with pytest.raises(SystemExit) as end:
        main(words(folder, tmp_path / "model", *change))
    assert end.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith(f"robustalign: error: {message}")
    assert not (tmp_path / "model").exists()
