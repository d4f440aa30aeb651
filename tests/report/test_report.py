"""From an MLflow store to a report, as a user does it."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

import robustalign
from robustalign.cli import choose, report
from robustalign.report.build import build, finished_settings
from robustalign.report.load import COLUMNS, MissingResults, store
from robustalign.report.markup import plain
from robustalign.run.folder import State
from tests.report.conftest import make
from tests.report.synthetic import Scene, bring

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
    knobs = frame.drop_duplicates("label").set_index("label")["knob"]
    assert knobs["kldpo tau=0.5"] == "temperature" and knobs["dpo"] == ""
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


def test_the_headline_has_a_line_for_each_point_but_dpo(built):
    head, _, *lines = (built / "headline.md").read_text().splitlines()
    assert "worst-case reward - dpo's" in head and "beyond a smaller step" in head and "verdict" in head
    names = [line.split("|")[1].strip() for line in lines]
    assert "dpo" not in names and {"kldpo tau=0.5", "oracle"} <= set(names)
    assert "the ceiling" in next(line for line in lines if line.startswith("| oracle"))


def test_the_page_needs_no_network(built):
    page = (built / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page) and "http" not in re.sub(r"base64,[^\"]*", "", page)


def test_the_report_is_logged_to_the_sweep(built, output):
    (logged,) = (output / "mlartifacts").glob("*/artifacts/report/report.html")
    assert logged.read_bytes() == (built / "report.html").read_bytes()


def test_the_report_is_rebuilt_to_the_byte(built, output, tmp_path):
    """By a new process, into another folder."""
    words = ["experiment=demo", f"paths.output={output}", f"output={tmp_path}", "draws=200"]
    code = "import sys; from robustalign.cli.report import main; main()"
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    first, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (built, tmp_path))
    assert len(first) > 20
    assert again == first


def test_choose_radius(output, monkeypatch, capsys):
    words = ("experiment=demo", f"paths.output={output}", "metric=reward", "tolerance=0.5")
    code, told, _ = run(monkeypatch, capsys, choose.main, *words)
    assert code == 0
    assert "kldpo" in told and "leave_one_out" in told and "hindsight" in told


@pytest.mark.parametrize("main", [report.main, choose.main])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "experiment: is missing"),
        (("experiment=nothing",), "'nothing' is not in"),
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


@pytest.mark.parametrize("main", [report.main, choose.main])
def test_help(monkeypatch, capsys, main):
    code, told, _ = run(monkeypatch, capsys, main, "--help")
    assert code == 0 and "experiment=NAME" in told


def words_of(output: Path, experiment: str) -> str:
    """What the report of an experiment says; few draws, as only the words matter."""
    return build(experiment, store(None, output), output, output / "reports" / experiment, draws=100)


def test_one_seed_is_said_to_be_one(tmp_path):
    bring(make(tmp_path, ("dpo", "kldpo_t1"), (3,), scene=Scene(prompts=40)))
    told = words_of(tmp_path, "demo")
    assert "1 seed x 40 test prompts" in told and "with one seed an interval tells of the prompts alone" in told
    costs = pd.read_csv(tmp_path / "reports" / "demo" / "costs.csv")
    assert costs["step_seconds_ratio"].notna().all() and costs["step_seconds_ratio_low"].isna().all()


def test_every_point_is_timed_where_runs_are_more_than_are_read(output, monkeypatch):
    """Four of eight runs are read: one of each point, not all of the first two."""
    monkeypatch.setattr("robustalign.report.build.CURVE_RUNS", 4)
    words_of(output, "demo")
    costs = pd.read_csv(output / "reports" / "demo" / "costs.csv")
    assert len(costs) == 4 and costs["step_seconds_ratio"].notna().all()


def test_an_unfinished_sweep_is_reported_as_far_as_it_is(tmp_path):
    """dpo has two of its three seeds, kldpo one that runs and one that failed, wdpo nothing."""
    sweep = make(tmp_path, ("dpo", "kldpo_t1", "wdpo_r0.03"), (0, 1, 2), scene=Scene(prompts=40))
    states = [State.FINISHED] * 2 + [State.RUNNING, State.FINISHED, State.RUNNING] + [State.FAILED] * 4
    for run, state in zip(sweep.runs, states, strict=True):
        if state is not State.FINISHED:
            run.folder.set_status(state, error="out of memory" if state is State.FAILED else None)
            shutil.rmtree(run.folder.results)
    bring(sweep)
    told = words_of(tmp_path, "demo")
    assert "4 of 9 runs are FAILED and left out: kldpo tau=1 seed=2, wdpo r=0.03 seed=0" in told
    assert "2 of 9 runs are RUNNING and left out: dpo seed=2, kldpo tau=1 seed=1" in told
    assert "kldpo tau=1 and dpo do not share seeds [1]; differences leave them out" in told
    table = pd.read_csv(tmp_path / "reports" / "demo" / "table.csv")
    assert set(table["label"]) == {"dpo", "kldpo tau=1"}
    assert "no run of wdpo r=0.03 has finished: nothing is said of it" in told


def test_a_metric_that_is_no_number_leaves_a_gap_and_a_word(tmp_path):
    sweep = make(tmp_path, ("dpo", "kldpo_t1", "kldpo_t0.5", "oracle"), (0, 1), scene=Scene(prompts=40))
    results = sweep.runs[2].folder.results
    frame = pd.read_parquet(results / "prompts.parquet")
    frame.loc[frame["metric"] == "loss", "total"] = float("nan")
    frame.to_parquet(results / "prompts.parquet")
    table = pd.read_csv(results / "targets.csv")
    table.loc[table["metric"] == "loss", ["value", "low", "high"]] = float("nan")
    table.to_csv(results / "targets.csv", index=False)
    certificates = pd.read_csv(results / "certificates.csv")
    certificates.loc[certificates["control"] == "policy", "value"] = float("nan")
    certificates.to_csv(results / "certificates.csv", index=False)
    bring(sweep)
    told = words_of(tmp_path, "demo")
    assert "kldpo tau=1 with seed 0 has no number for loss: its means are not numbers" in told
    found = pd.read_csv(tmp_path / "reports" / "demo" / "table.csv").query("label == 'kldpo tau=1'")
    assert found.loc[found["metric"] == "loss", "value"].isna().any()
    assert found.loc[found["metric"] == "reward", "value"].notna().all()
    loss = found.query("metric == 'loss' and control == 'policy' and split == 'test'")
    assert loss["value"].isna().all() and loss["difference"].isna().all()


def test_runs_that_ran_away_are_named(tmp_path):
    sweep = make(tmp_path, ("dpo", "kldpo_t1"), (0, 1), "evaluation.max_kl=1000", scene=Scene(prompts=40))
    results = sweep.runs[3].folder.results
    table = pd.read_csv(results / "targets.csv")
    table.loc[(table["metric"] == "kl") & (table["control"] == "policy"), "value"] = 1234.5
    table.to_csv(results / "targets.csv", index=False)
    bring(sweep)
    told = words_of(tmp_path, "demo")
    assert told.count("ran away") == 1
    assert "kldpo tau=1 with seed 1 ran away: KL 1.23e+03 nats a reply from the reference" in told


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


ODD = r"cheap $$ & <b>#1_{x}^2~</b> 50% \\ [a](b) **c** |d|"


def test_a_label_may_hold_any_character(tmp_path):
    """And stands in every table, picture and page as it was given."""
    bring(make(tmp_path, ("dpo",), (0, 1), scene=Scene(prompts=40)))
    bring(make(tmp_path, ("kldpo_t0.5",), (0, 1), f"label='{ODD}'", scene=Scene(prompts=40)))
    told = words_of(tmp_path, "demo")
    folder = tmp_path / "reports" / "demo"
    assert ODD in plain(told)
    assert ODD in set(pd.read_csv(folder / "table.csv")["label"])
    page = (folder / "report.html").read_text()
    assert f"<b>{html.escape(ODD)}</b>" in page and "<b>#1" not in page
    tex = (folder / "table_reward.tex").read_text()
    assert r"cheap \$\$ \& \textless{}b\textgreater{}\#1\_\{x\}\textasciicircum{}2\textasciitilde{}" in tex
    assert ODD in plain((folder / "table.md").read_text())
    texts = re.findall(r"<text[^>]*>(.*?)</text>", (folder / "curves.svg").read_text())
    assert ODD in {html.unescape(text) for text in texts}


def test_runs_that_were_not_tested_are_reported_on_validation_prompts(tmp_path) -> None:
    """As those of experiment=tune_dpo: every number is of validation prompts, and nothing is chosen by them."""
    points = ("dpo", "kldpo_t0.5", "overlooked")
    sweep = make(tmp_path, points, (0, 1), "evaluation.splits=[validation]", scene=Scene(prompts=40))
    bring(sweep)
    told = words_of(tmp_path, "demo")
    assert "validation prompts." in told and "no run was tested" in told
    folder = tmp_path / "reports" / "demo"
    assert set(pd.read_csv(folder / "table.csv")["split"]) == {"validation"}
    assert not list(folder.glob("choice*")) and (folder / "curves.png").stat().st_size > 10_000
