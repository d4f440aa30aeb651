"""What is averaged with what, and what readers are warned of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from robustalign.evaluation.metrics import METRICS
from robustalign.report.load import load_runs, once, store
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import settings
from tests.report.conftest import SEEDS, make
from tests.report.synthetic import bring, records


def test_points_and_their_seeds(sweep):
    (setting,) = settings(records(sweep))
    labels = [point.label for point in setting.points]
    assert labels[0] == "dpo" and "dpo lr=2.5e-4" in labels and "kldpo tau=0.5" in labels and labels[-1] == "oracle"
    assert all(point.seeds == SEEDS for point in setting.points)
    assert setting.baseline is not None and setting.baseline.label == "dpo"
    assert {name: [p.knob.value for p in points] for name, points in setting.families().items()} == {
        "wdpo": [0.03],
        "kldpo": [1.0, 0.5],
    }


def test_groups_tell_points_apart(tmp_path):
    """The same method on groups found in two ways."""
    narrow = make(tmp_path, ("kldpo_t0.5",), (0, 1), "groups=overlooked")
    wide = make(tmp_path, ("kldpo_t0.5",), (0, 1), "groups=overlooked", "groups.threshold=2.0")
    (setting,) = settings(records(narrow) + records(wide))
    found = {point.config["groups"]["threshold"]: point.label for point in setting.points}
    assert set(found) == {1.0, 2.0} and len(set(found.values())) == 2


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path):
    """Two learning rates under one label become two points with different names."""
    fast = make(tmp_path, ("kldpo_t0.5",), (0, 1))
    slow = make(tmp_path, ("kldpo_t0.5",), (0, 1), "trainer.learning_rate=2e-4")
    (setting,) = settings(records(fast) + records(slow))
    assert sorted(point.label for point in setting.points) == [
        "kldpo tau=0.5 learning_rate=0.0002",
        "kldpo tau=0.5 learning_rate=0.0005",
    ]


def test_settings_are_reported_apart(tmp_path):
    runs = records(make(tmp_path, ("dpo",), (0,))) + records(make(tmp_path, ("dpo",), (0,), "shift=label_noise"))
    assert sorted(setting.name for setting in settings(runs)) == ["label_noise", "neglected_minority"]


def test_runs_from_before_a_key_was_added_are_those_of_its_default(tmp_path):
    """A new key of the schema parts nobody's earlier runs from later ones."""
    sweep = make(tmp_path, ("dpo",), (0, 1))
    early = sweep.runs[0].folder.path / "config.yaml"
    config = yaml.safe_load(early.read_text())
    del config["model"]["sft"], config["dataset"]["prompt_tokens"], config["trainer"]["epochs"]
    early.write_text(yaml.safe_dump(config))
    bring(sweep)
    (setting,) = settings(load_runs(store(None, tmp_path), config["tracking"]["experiment"], tmp_path))
    assert [point.seeds for point in setting.points] == [(0, 1)]


def test_unfinished_and_failed_runs_are_named_and_left_out(sweep):
    runs = records(sweep)
    runs[0] = replace(runs[0], status="FAILED")
    runs[4] = replace(runs[4], status="RUNNING")
    (setting,) = settings(runs)
    told = "\n".join(setting.warnings)
    assert "1 of 18 runs are FAILED and left out: dpo seed=0" in told
    assert "1 of 18 runs are RUNNING and left out" in told
    assert setting.point("dpo").seeds == (1, 2)
    assert "kldpo tau=1 and dpo do not share seeds [0]" in told


def test_an_experiment_without_finished_runs_has_no_setting(sweep):
    assert settings([replace(run, status="KILLED") for run in records(sweep)]) == []


def test_a_run_of_two_sweeps_counts_once_and_both_are_named(sweep):
    runs = records(sweep)
    again = [replace(run, sweep="another", run_id=f"{run.run_id}-2", started=run.started + 100) for run in runs[:6]]
    (setting,) = settings(once(runs + again))
    assert all(len(point.runs) == 3 for point in setting.points)
    assert any("holds 2 sweeps" in warning for warning in setting.warnings)


def test_a_seed_run_twice_counts_once_and_is_named(sweep):
    runs = records(sweep)
    (setting,) = settings([*runs, replace(runs[0], uid="other", run_id="other")])
    assert setting.point("dpo").runs[0].run_id == "other"
    assert any("two finished runs with seed 0" in warning for warning in setting.warnings)


@pytest.mark.parametrize(
    ("points", "seeds", "overrides", "warning"),
    [
        (("dpo", "kldpo_t1"), (0, 1), (), "fewer than 5 seeds"),
        (("dpo", "kldpo_t1"), (0,), (), "with one seed"),
        (("kldpo_t1",), (0, 1), (), "no dpo"),
        (("dpo", "kldpo_t1"), (0,), (), "one learning rate"),
        (("dpo", "kldpo_t1"), (0,), (), "no oracle"),
        (("dpo", "kldpo_t1", "kldpo_t0.5"), (0,), (), "tuning budgets differ"),
        (("dpo", "kldpo_t1"), (0,), ("evaluation.shrinkage=[]", "evaluation.steps=[]"), "shrinkage curve is missing"),
    ],
)
def test_warnings(tmp_path, points, seeds, overrides, warning):
    (setting,) = settings(records(make(tmp_path, points, seeds, *overrides)))
    assert any(warning in told for told in setting.warnings)


def test_batch_sizes_that_differ_are_told(tmp_path):
    runs = records(make(tmp_path, ("dpo",), (0,)))
    runs += records(make(tmp_path, ("kldpo_t1",), (0,), "trainer.batch_size=32", "trainer.micro_batch_size=32"))
    (setting,) = settings(runs)
    assert any("batch sizes differ (dpo N=64, kldpo tau=1 N=32)" in told for told in setting.warnings)


def test_a_result_that_is_no_number_is_not_averaged_away(tmp_path):
    sweep = make(tmp_path, ("dpo", "kldpo_t1"), (0, 1))
    path = sweep.runs[0].folder.results / "prompts.parquet"
    frame = pd.read_parquet(path)
    frame.loc[(frame["metric"] == "loss") & (frame["component"] == "joy"), "total"] = np.nan
    frame.to_parquet(path)
    (setting,) = settings(records(sweep))
    measures = Measures(setting, draws=100)
    values = measures.values(Policy("dpo"), METRICS["loss"])
    assert np.isnan(values.estimate("worst").value) and np.isnan(values.estimate("worst").low)
    assert np.isfinite(measures.values(Policy("dpo"), METRICS["reward"]).estimate("worst").value)


def test_weights_of_groups_make_a_method_and_no_control(tmp_path):
    sweep = make(tmp_path, ("dpo", "overlooked"), (0,))
    (setting,) = settings(records(sweep))
    assert [point.plain for point in (setting.point("dpo"), setting.point("overlooked"))] == [True, False]
    assert setting.robust == [setting.point("overlooked")]
