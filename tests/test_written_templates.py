"""The templates that the documentation gives are whole: written to a copy of the project, each makes a run."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITH_PATH = re.compile(r"```(?:python|yaml)\n# ((?:robustalign|conf)/[\w/]+\.(?:py|yaml))\b.*?\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the package and its configs with the templates of both pages in it."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("robustalign", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for page in ("CONTRIBUTING.md", "docs/own_method.md"):
        for path, text in WITH_PATH.findall((ROOT / page).read_text()):
            assert not (folder / path).exists(), path
            (folder / path).write_text(text)
    rows = [
        [f"question {i}?", f"yes {i}", f"no {i}", ("left", "right", "same")[i % 3], "UUUK"[i % 4]] for i in range(240)
    ]
    with open(folder / "polls.csv", "w", newline="") as file:
        csv.writer(file).writerows([["ask", "left", "right", "better", "land"], *rows])
    return folder


def train(project: Path, *words: str) -> list[dict[str, str]]:
    """Trains one step; the rows of ``results/targets.csv``."""
    command = [
        sys.executable,
        "-m",
        "robustalign.cli.main",
        "train",
        *words,
        "debug=one_step",
        f"paths.output={project}/out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = re.findall(r"FINISHED .*?(\S+/runs/\w+)", done.stdout + done.stderr)
    with open(project / folder / "results" / "targets.csv") as file:
        return list(csv.DictReader(file))


def test_a_loss_and_a_metric(project):
    rows = train(project, "method=squared_kl")
    briers = [float(row["value"]) for row in rows if row["metric"] == "brier" and row["value"]]
    assert briers and all(0 <= value <= 1 for value in briers)


def test_a_reward(project):
    rows = train(project, "reward=[emotions,lexical,diversity]", "shift.objectives=[diverse,ask]")
    assert any(row["metric"] == "reward" for row in rows)


def test_a_shift(project):
    assert {row["target"] for row in train(project, "shift=askers")} >= {"even", "joy_lovers"}


def test_a_data_set(project):
    nominal = "shift.nominal={U: 0.9, K: 0.1}"
    rows = train(project, "dataset=polls", "shift=groups", "shift.by=country", "shift.min_rows=1", nominal)
    assert {row["target"] for row in rows} >= {"U", "K"}
