"""One command: it lists what it can do, imports what is named, and says what is missing and how to get it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from robustalign import __version__, wheels
from robustalign.cli import demo, doctor, main
from tests.sweeps.shell import ROOT


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    rows = "".join(f'{{"prompt": "q{i}", "chosen": "a", "rejected": "b"}}\n' for i in range(300))
    (tmp_path / "d.jsonl").write_text(rows)
    words = f"{sys.executable} -m robustalign.cli.main data show {tmp_path}/d.jsonl n=300"
    done = subprocess.run(f"{words} | head -1", shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("── d.jsonl row 1") and "Traceback" not in done.stderr


@pytest.fixture
def type_in(monkeypatch, capsys):
    def typed(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robustalign", *words])
        try:
            code = main.main()
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return typed


def test_help_lists_every_command_and_what_it_is_for(type_in):
    code, out, _ = type_in("--help")
    assert code == 0
    assert all(f"  {name} " in out and main.COMMANDS[name][1] in out for name in main.commands())
    assert type_in()[0] == 2 and type_in("--version")[1] == f"robustalign {__version__}\n"


def test_every_command_of_the_list_exists():
    assert set(main.COMMANDS) - set(main.commands()) <= {"data"}


def test_a_command_that_is_not_one_is_told_what_was_meant(type_in):
    code, _, err = type_in("tarin")
    assert code == 2 and err == "robustalign: error: tarin: unknown command; did you mean train?\n"
    assert "choose one of: " in type_in("x")[2]


@pytest.mark.parametrize("name", [name for name in main.commands() if name != "train"])
def test_every_command_has_help_that_names_it(type_in, name):
    code, out, _ = type_in(name, "--help")
    assert code == 0 and f"robustalign {name}" in out
    assert importlib.import_module(f"robustalign.cli.{main.COMMANDS[name][0]}").__doc__


def test_help_and_version_import_nothing_heavy(tmp_path):
    program = (
        "import sys\nfrom robustalign.cli.main import main\nmain()\n"
        "assert not {'torch', 'mlflow', 'hydra', 'pandas', 'transformers'} & set(sys.modules)"
    )
    for word in ("--help", "--version"):
        command = [sys.executable, "-c", program, word]
        assert subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}).returncode == 0


def test_the_doctor_names_what_is_missing_and_the_command_that_brings_it(type_in, monkeypatch, tmp_path):
    code, out, _ = type_in("doctor", f"paths.output={tmp_path}")
    assert (code == 0 and __version__ in out and "no store at" in out and "trainer.device" in out) or "gpu" in out
    monkeypatch.setattr(doctor, "NEEDED", (*doctor.NEEDED, "no-such-package"))
    monkeypatch.setattr(wheels, "wanted", lambda: {"no-such-wheel": "1.0"})
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    code, out, _ = type_in("doctor", f"paths.output={tmp_path}")
    lines = out.splitlines()
    assert code == 1
    (package,) = (line for line in lines if "no-such-package" in line)
    assert package.startswith("missing ") and "pip install no-such-package" in package
    (wheel,) = (line for line in lines if "no-such-wheel" in line)
    assert wheel.startswith("- ") and wheels.install() in wheel
    assert any("no sbatch here" in line for line in lines)
    assert wheels.requirements().is_file() and list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_answer_is_told_without_its_password(type_in, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    _, out, _ = type_in("doctor", "tracking.uri=http://me:hunter2hunter2@127.0.0.1:9")
    (line,) = (line for line in out.splitlines() if " tracking " in line)
    assert "cannot open" in line and "robustalign sync" in line and "hunter2" not in out


def test_the_demo_trains_both_experiments_and_reports_both(type_in, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(demo, "_call", lambda *words: called.append(words) or 0)
    monkeypatch.setattr(wheels, "missing", list)
    output = f"paths.output={tmp_path}"
    assert type_in("demo", output, "trainer.max_steps=3")[0] == 0
    assert called == [
        ("train", "-m", "experiment=demo", output, "trainer.max_steps=3"),
        ("train", "-m", "experiment=demo_smollm2", output, "trainer.max_steps=3"),
        ("report", "experiment=demo_smollm2", output),
        ("report", "experiment=demo", output),
    ]
    monkeypatch.setattr(demo, "_call", lambda *words: 3)
    assert type_in("demo")[0] == 3
    monkeypatch.setattr(wheels, "missing", lambda: ["nade"])
    code, _, err = type_in("demo")
    assert code == 2 and "nade" in err and "pip install" in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_the_demo_itself(tmp_path):
    words = [
        "trainer.max_steps=2",
        "evaluation.steps=[]",
        "dataset.train_prompts=12",
        f"paths.output={tmp_path}/outputs",
    ]
    done = subprocess.run([sys.executable, "-m", "robustalign.cli.main", "demo", *words], cwd=tmp_path, text=True)
    assert done.returncode == 0
