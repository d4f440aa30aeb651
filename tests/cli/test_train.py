"""What users type wrong is answered in one line; what they ask for comes quickly."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from robustalign.cli.errors import one_line_errors
from robustalign.cli.train import main, train
from robustalign.config import config_dir, register
from robustalign.sweeps.hydra import replaced
from robustalign.sweeps.mlflow_sync import ImportThread
from robustalign.tracking.read import runs_table
from tests.sweeps.shell import ROOT
from tests.tracking.conftest import migrated

__all__ = ["migrated"]

BAD = {
    "method=nope": ("method", "choose one of: "),
    "methud=dpo": ("methud", "did you mean method?"),
    "trainer.max_step=3": ("trainer.max_step", "did you mean trainer.max_steps?"),
    "+trainer.max_step=3": ("trainer.max_step", "not in 'TrainerConfig'"),
    "method.bta=1": ("method.bta", "did you mean method.beta?"),
    "method.radius=1": ("method.radius", "the chosen method has no such key ("),
    "trainer.max_steps=many": ("trainer.max_steps", "'many'"),
    "trainer.max_steps=[1": ("trainer.max_steps", "cannot be read"),
    "trainer.max_steps": ("trainer.max_steps", "KEY=VALUE"),
    "shift.nominal=[0.9,0.2]": ("shift.nominal", "sum"),
    "shift.nominal=[1.5,-0.5]": ("shift.nominal", "outside [0, 1]"),
    "+method.radius=-1": ("method.radius", "below 0"),
    "tracking.uri=ftp://x": ("tracking.uri", "unknown scheme"),
    "paths.output=/proc/here": ("paths.output", "cannot write"),
    "seed=${nowhere}": ("seed", "nowhere"),
    "seed=0,1": ("-m", "2 runs"),
    "experiment=nope": ("experiment", "choose one of: "),
    "shift.targets={a:[1,0],b:[0,2]}": ("shift.targets.b", "outside [0, 1]"),
    "groups.requireevidence=1": ("groups.requireevidence", "did you mean groups.require_evidence?"),
    "reward.joy.emotio=x": ("reward.joy.emotio", "did you mean reward.joy.emotion?"),
    "dataset.fields=[a]": ("dataset.fields", "is a list; write a mapping"),
    "hydra.launcher.workers=-1": ("hydra.launcher.workers", "below 0"),
    "+hydra.launcher.worker=1": ("hydra.launcher.worker", "there are: wait, workers"),
}


@pytest.fixture
def type_in(monkeypatch, tmp_path, capsys):
    """The command in this process, which saves the imports of each."""
    import hydra

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    register()

    def typed(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(
            sys, "argv", ["train.py", "sweep.program=tests.run.toy_program", *replaced(words), "--multirun"]
        )
        monkeypatch.setattr(train, "single", True, raising=False)
        with pytest.raises(SystemExit) as end, one_line_errors():
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(train)()
        return int(end.value.code or 0), capsys.readouterr().err

    return typed


@pytest.mark.parametrize("word", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing(type_in, tmp_path, word):
    key, part = BAD[word]
    code, message = type_in(word)
    assert code == 2
    assert message.startswith(f"robustalign: error: {key}: ")
    assert part in message
    assert len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_one_bad_run_stops_the_sweep_before_it_starts(shell):
    done = shell.run("train.py", "-m", "method=kldpo", "method.temperature=null", "method.radius=0.1,0.2,-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("robustalign: error: method.radius: ")
    assert list(shell.folder.iterdir()) == []


@pytest.mark.parametrize("word", ["shift=null", "trainer=3", "reward=[]", "method=", "experiment=null"])
def test_a_group_needs_a_choice(word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", word, "--cfg", "job"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith(f"robustalign: error: {word.partition('=')[0]}: ") and "choose one of: " in message
    assert len(message.splitlines()) == 1


def test_targets_given_whole_replace_those_of_the_shift(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "shift.targets={a: [1,0], b: [0,1]}", "--cfg", "job", "-p", "shift"])
    main()
    shown = capsys.readouterr().out
    assert "a:" in shown and "b:" in shown and "joy_0.1" not in shown


def test_a_config_file_that_is_no_yaml_is_named_with_its_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("seed: 1\nseed: 2\n")
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", str(tmp_path), "experiment=mine"])
    with pytest.raises(SystemExit) as end:
        main()
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith("robustalign: error: mine.yaml line 2: is no YAML: ")
    assert len(message.splitlines()) == 1


def test_a_list_of_targets_composes_and_is_checked():
    from hydra import compose, initialize_config_dir

    from robustalign.checks import resolve

    words = ["dataset=preferences", "dataset.path=x.jsonl", "+dataset.columns.country=c", "shift=groups"]
    named = "{half: {US: 0.5, UK: 0.5}}"
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("config", [*words, "shift.by=country", f"shift.targets=[each, {named}]"])
    assert resolve(composed).shift.targets == ["each", {"half": {"US": 0.5, "UK": 0.5}}]


def test_options_of_sbatch_are_given_as_a_mapping_or_one_by_one(capsys, monkeypatch):
    for word in ("hydra.launcher.sbatch={reservation: mine}", "hydra.launcher.sbatch.reservation=mine"):
        words = ["hydra/launcher=slurm", word, "--cfg", "hydra", "-p", "hydra.launcher.sbatch"]
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        main()
        assert "reservation: mine" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--help",), ("--cfg", "job")])
def test_looking_imports_nothing_heavy(words, tmp_path):
    program = (
        "import sys\nfrom robustalign.cli.train import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'mlflow', 'submitit', 'pandas', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "method" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_in_mlflow_when_the_command_ends(shell, migrated):
    shell.output.mkdir()
    shutil.copy(migrated, shell.output / "mlflow.db")
    done = shell.run("train.py", "-m", "seed=0,1", "trainer.max_steps=3", "+method.raise_at=2", "+method.die_at=1")
    assert done.returncode == 1
    table = runs_table(shell.sweep().mlruns, "robustalign")
    assert list(table["status"]) == ["FAILED", "FAILED"]
    assert set(table["name"]) == {"dpo seed=0", "dpo seed=1"}
    assert table["parent"].nunique() == 1
    assert set(table["tags.robustalign.error"]) == {"ValueError: asked to raise at step 2"}
    assert "compare-runs" in done.stdout
    names = sorted(path.name for path in shell.output.iterdir() if not path.name.startswith((".", "mlflow.db-")))
    assert names == ["mlartifacts", "mlflow.db", "runs", "sweeps"]


def test_spooled_runs_are_imported_later_and_an_unreachable_store_costs_none(shell, migrated, capsys):
    assert shell.train("trainer.max_steps=3").returncode == 0
    assert not (shell.output / "mlflow.db").exists()
    lost = shell.sweep()
    lost.tracking.uri = "http://127.0.0.1:9"
    assert ImportThread(lost).finish() is None
    assert "robustalign sync" in capsys.readouterr().err
    shutil.copy(migrated, shell.output / "mlflow.db")
    for _ in range(2):
        assert shell.act("sync") == 0
    assert list(runs_table(shell.sweep().mlruns, "robustalign")["status"]) == ["FINISHED"]


@pytest.mark.parametrize(("words", "part"), [(["status"], "has no sweeps"), (["logs", "x"], "has no sweeps")])
def test_asking_about_nothing_is_one_line(capsys, tmp_path, words, part):
    from robustalign.cli.sweep import main

    with pytest.raises(SystemExit) as end:
        main([*words, "--output", str(tmp_path)])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert part in message
    assert len(message.splitlines()) == 1
