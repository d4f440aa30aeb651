"""The paper's other experiments at their smallest: several objectives, and benchmarks after training."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from robustalign.pipeline import program
from tests.conftest import compose_config
from tests.pipeline.test_run import metrics, run, targets


@pytest.fixture
def smoke(tmp_path: Path, shared_cache: Path):
    places = (f"paths.output={tmp_path / 'outputs'}", f"paths.cache={shared_cache}")
    return lambda name, *overrides: compose_config(f"experiment={name}/smoke", *places, *overrides)


@pytest.mark.parametrize("pair", [1, 2, 3])
def test_objectives_that_played_no_part_are_targets(smoke, pair: int) -> None:
    config = smoke("multi_objective", f"shift=multi_objective_{pair}", "trainer.max_steps=2", "evaluation.shrinkage=[]")
    table = targets(run(config, f"pair{pair}")).query("metric == 'reward' and split == 'test'")
    first, second, *unseen = (name.replace("-short", "long") for name in config.shift.objectives)
    assert {f"{first}_0.0", f"{first}_0.3", f"{first}_1.0", *unseen} <= {
        name.removeprefix("-") for name in table["target"]
    }
    assert len(unseen) == 3 and config.shift.nominal == [0.5, 0.5, 0, 0, 0] and second


def test_benchmarks_are_run_on_policy_and_reference(smoke, tasks: Path) -> None:
    pytest.importorskip("lm_eval")
    own = (f"evaluation.harness.include={tasks}", "evaluation.harness.tasks=[small_talk]", "dataset.samples=10")
    config = smoke("leaderboard", *own, "evaluation.generate=never")
    folder = run(config, "leaderboard")
    table = pd.read_csv(folder.results / "benchmarks.csv")
    assert sorted(table["control"]) == ["policy", "reference"] and set(table["n"]) == {4}
    value = float(table.loc[table["control"] == "policy", "value"].iloc[0])
    assert metrics(folder)[2, "benchmark/small_talk/acc"] == pytest.approx(value)
    assert "--tasks small_talk" in folder.journal.read_text(), "the harness's own command is a tag"
    before = program.inputs(config)
    (tasks / "small_talk.jsonl").write_text("{}")
    assert program.inputs(config)["harness"] != before["harness"], "edited questions make a finished run outdated"


@pytest.mark.parametrize("name", ["few_pairs", "label_noise"])
def test_our_own_experiments_have_a_smallest_size(smoke, name: str) -> None:
    table = targets(
        run(smoke(name, "trainer.max_steps=2", "evaluation.shrinkage=[]", "evaluation.generate=never"), name)
    )
    assert {"loss", "accuracy"} <= set(table["metric"])
