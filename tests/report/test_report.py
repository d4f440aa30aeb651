"""From an MLflow store to a report, as a user does it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

import robustalign
from robustalign.cli import choose_radius, report
from robustalign.pipeline.folder import State
from robustalign.report.build import finished_settings
from robustalign.report.load import COLUMNS, MissingResults, store
from tests.report.conftest import make
from tests.report.synthetic import bring

POINTS = ("dpo", "kldpo_t1", "kldpo_t0.5", "oracle")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """A store with one experiment: four points, two seeds, all finished."""
    folder = tmp_path_factory.mktemp("outputs")
    bring(make(folder, POINTS, (0, 1)))
    return folder


def run(monkeypatch, capsys, main, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["script", *words])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def test_import_is_light():
    code = "import sys, robustalign; print(sorted({'torch', 'pandas', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_runs_is_tidy(output):
    frame = robustalign.runs("demo", output=output)
    assert list(frame.columns) == list(COLUMNS)
    assert not frame.duplicated(["run_id", "target", "metric"]).any()
    assert set(frame["split"]) == {"test"} and set(frame["control"]) == {"policy"} and set(frame["step"]) == {80}
    assert frame.groupby("label", observed=True)["seed"].nunique().eq(2).all()
    temperature = frame.drop_duplicates("label").set_index("label")["temperature"]
    assert temperature["kldpo tau=0.5"] == 0.5 and pd.isna(temperature["dpo"])
    everything = robustalign.runs("demo", output=output, split=None, controls=True)
    assert set(everything["split"]) == {"test", "validation"} and "shrink_0.5" in set(everything["control"])


@pytest.fixture(scope="module")
def built(output) -> Path:
    """The folder of the experiment's report."""
    words = ["experiment=demo", f"paths.output={output}", "draws=200"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report.py", *words])
        report.main()
    return output / "reports" / "demo"


def test_the_report_has_everything(built):
    names = {path.name for path in built.iterdir()}
    assert {"table.csv", "table.md", "table_reward.tex", "summary.md", "report.html", "comparisons.csv"} <= names
    for kind in ("png", "svg"):
        assert {f"curves.{kind}", f"trade_off_nominal.{kind}", f"learning.{kind}"} <= names
    told = (built / "summary.md").read_text()
    assert "kldpo tau=0.5" in told and "fewer than 5 seeds" in told and "2 seeds x 150 test prompts" in told


def test_the_page_needs_no_network(built):
    page = (built / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "http" not in re.sub(r"base64,[^\"]*", "", page)


def test_the_report_is_logged_to_the_sweep(built, output):
    (logged,) = (output / "mlartifacts").glob("*/artifacts/report/report.html")
    assert logged.read_bytes() == (built / "report.html").read_bytes()


@pytest.mark.slow
def test_the_report_is_rebuilt_to_the_byte(tmp_path, monkeypatch, capsys):
    bring(make(tmp_path, POINTS, (0, 1)))
    words = ("experiment=demo", f"paths.output={tmp_path}", "draws=200")
    folder = tmp_path / "reports" / "demo"
    code, told, _ = run(monkeypatch, capsys, report.main, *words)
    assert code == 0 and str(folder / "curves.png") in told
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    run(monkeypatch, capsys, report.main, *words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_choose_radius(output, monkeypatch, capsys):
    words = ("experiment=demo", f"paths.output={output}", "metric=reward", "tolerance=0.5")
    code, told, _ = run(monkeypatch, capsys, choose_radius.main, *words)
    assert code == 0
    assert "kldpo" in told and "leave_one_out" in told and "hindsight" in told


@pytest.mark.parametrize("main", [report.main, choose_radius.main])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "experiment: is missing"),
        (("experiment=nothing",), "no experiment 'nothing'"),
        (("experiment=demo", "sweep=none"), "sweep: no finished run"),
        (("experimnt=demo",), "did you mean experiment?"),
        (("experiment=demo", "draws=few"), "draws: 'few' is not a number"),
        (("experiment=demo", "draws=3"), "draws: 3 is below"),
        (("experiment=demo", "tracking.uri=file:///tmp"), "tracking.uri: unknown scheme"),
        (("experiment=demo", "paths.output=/nowhere"), "paths.output: there is no tracking store"),
    ],
)
def test_errors_are_one_line(output, monkeypatch, capsys, main, words, expected):
    if not any(word.startswith("paths.output") for word in words):
        words = (*words, f"paths.output={output}")
    code, _, told = run(monkeypatch, capsys, main, *words)
    assert code == 2
    assert told.count("\n") == 1 and told.startswith("robustalign: error: ") and expected in told


@pytest.mark.parametrize("main", [report.main, choose_radius.main])
def test_help(monkeypatch, capsys, main):
    code, told, _ = run(monkeypatch, capsys, main, "--help")
    assert code == 0 and "experiment=NAME" in told


def test_an_experiment_with_failed_runs_says_so(output):
    sweep = make(output, ("dpo", "wdpo_r0.03"), (0, 1), "tracking.experiment=broken", "trainer.max_steps=60")
    for number in (2, 3):
        sweep.runs[number].folder.set_status(State.FAILED, error="out of memory")
        shutil.rmtree(sweep.runs[number].folder.results)
    bring(sweep)
    with pytest.warns(MissingResults, match="2 of 4 runs have no results"):
        frame = robustalign.runs("broken", output=output)
    assert set(frame["label"]) == {"dpo"}
    _, (setting,) = finished_settings(store(None, output), "broken", output, None)
    assert "2 of 4 runs are FAILED and left out: wdpo r=0.03 seed=0, wdpo r=0.03 seed=1" in setting.warnings


def test_two_sweeps_of_one_experiment_are_one_set_of_runs(output):
    """The second one repeats a seed of the first."""
    second = make(output, POINTS, (1, 2))
    bring(second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = robustalign.runs("demo", output=output)
    assert not frame.duplicated(["label", "seed", "target", "metric"]).any()
    _, (setting,) = finished_settings(store(None, output), "demo", output, None)
    assert all(point.seeds == (0, 1, 2) for point in setting.points)
    assert any("holds 2 sweeps" in warning for warning in setting.warnings)
    _, (alone,) = finished_settings(store(None, output), "demo", output, second.id)
    assert all(point.seeds == (1, 2) for point in alone.points)
