"""The stage of groups in whole runs: memberships reach the training rows, evidence the results."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from robustalign.errors import ConfigError
from robustalign.groups import Evidence
from robustalign.pipeline.checks import check_config
from robustalign.pipeline.groups import GroupStage
from robustalign.pipeline.stages import Stages
from robustalign.pipeline.training_rows import Prepared, prepare
from robustalign.training.objective import build_objective
from tests.pipeline.test_run import FAST, metrics, run

FEW = (*FAST, "dataset.pairs.per_prompt=4")


def prepared(config) -> Prepared:
    stages = Stages(config)
    return prepare(stages, build_objective(config.method), stages.candidates("train"))


@pytest.mark.parametrize("groups", ["overlooked", "high_loss", "bins", "column"])
def test_a_run_with_groups_tells_what_speaks_for_them(small, groups: str) -> None:
    extra = {"column": "groups.by=population", "high_loss": "groups.steps=2"}.get(
        groups, "groups.require_evidence=false"
    )
    folder = run(small(*FEW, "method=overlooked", "method.delay=1", f"groups={groups}", extra), groups)
    numbers = metrics(folder)
    shares = [value for (step, name), value in numbers.items() if name.startswith("groups/share/")]
    assert sum(shares) == pytest.approx(1.0) and len(shares) == (4 if groups == "bins" else 2)
    table = pd.read_csv(folder.results / "groups.csv")
    assert list(table) == ["group", "membership", "prompt", "chosen", "rejected"]
    assert (table.groupby("group").size() <= 20).all() and (table["membership"] > 0).all()
    page = (folder.results / "groups.md").read_text()
    tags = [json.loads(row)["values"] for row in folder.journal.read_text().splitlines() if '"kind": "tags"' in row]
    sentence = next(values["groups"] for values in tags if "groups" in values)
    assert page.startswith(f"# Groups of pairs\n\n{sentence}\n") and sentence.endswith(".")
    saved = json.loads((folder.results / "groups.json").read_text())
    assert Evidence.load(saved["evidence"]).sentence == sentence and not saved["dismissed"]
    agreement = numbers[0, "groups/agreement/population/rand"]
    assert agreement == pytest.approx(1.0) if groups == "column" else agreement < 1


@pytest.mark.parametrize("delay", ["2", "0.5"])
def test_the_weights_hold_from_the_delay_on_and_sum_as_told(small, delay) -> None:
    """Of four steps: two, or half of them."""
    weights = ("method=overlooked", "method.mass=0.4", f"method.delay={delay}")
    config = small(*FEW, *weights, "groups=column", "groups.by=population")
    rows = prepared(config).rows
    weight, minority = rows.columns["weight"], rows.pairs.annotator == 1
    assert weight is not None and weight.mean() == pytest.approx(1.0)
    assert weight[minority].sum() / weight.sum() == pytest.approx(0.4)
    assert len(np.unique(weight[minority])) == len(np.unique(weight[~minority])) == 1
    size = config.trainer.batch_size
    seen = [rows[i]["weight"] for i in range(len(rows))]
    assert seen[: 2 * size] == [1.0] * (2 * size)
    assert seen[2 * size :] == weight[rows.order[2 * size :]].tolist()


def test_soft_memberships_reach_the_group_ball(small) -> None:
    config = small(
        *FEW,
        "method=group_regret",
        "groups=overlooked",
        "groups.soft=true",
        "groups.require_evidence=false",
        "trainer.max_steps=3",
    )
    found = prepared(config)
    rows = found.rows
    assert np.allclose(np.array([rows[i]["group"] for i in range(5)]).sum(1), 1)
    attainable = found.objective.set.attainable
    assert len(attainable) == 2 and all(0 < value < 1 for value in attainable)
    again = prepared(config)
    assert again.objective.set.attainable == attainable
    assert {event.stage for event in again.stage.stages.cache.events if event.reused} >= {"groups", "attainable"}


def test_required_evidence_that_is_missing_leaves_no_group(small) -> None:
    """24 prompts speak for nothing."""
    found = prepared(small(*FEW, "method=overlooked"))
    groups, rows = found.groups, found.rows
    assert groups.dismissed and not groups.evidence.believable
    assert groups.membership.shape == (len(rows.pairs), 1) and "weight" not in rows.columns
    assert "not used" in groups.page(found.stage.to_read(groups))
    assert groups.metrics()["groups/used"] == 0


def test_memberships_are_found_once_for_the_same_pairs(small) -> None:
    first = prepared(small(*FEW, "groups=overlooked")).stage
    stage = GroupStage(first.stages, first.pairs, first.candidates)
    assert stage.key == first.key
    other = GroupStage(first.stages, stage.pairs.take(np.arange(len(stage.pairs))[::-1]), first.candidates)
    assert other.key != stage.key


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["method=dpo", "+method.mass=0.3"],
            "method.mass: weighs up a group, but there is none",
        ),
        (["method=overlooked", "method.mass=1.2"], "method.mass: 1.2 is outside"),
        (["method=overlooked", "method.delay=-1"], "method.delay: -1"),
        (["method=overlooked", "method.delay=2.5"], "method.delay: 2.5 is neither"),
        (["method=overlooked", "method.delay=80"], "method.delay: 80 of "),
        (["groups=overlooked", "groups.layers=[]"], "groups.layers: "),
        (["groups=overlooked", "groups.doubt=1.5"], "groups.doubt: "),
        (["groups=overlooked", "+groups.fold=3"], "groups.fold: unknown key for overlooked"),
        (["groups=bins", "groups.k=one"], "groups.k: 'one' is not a whole number"),
        (["groups=annotators", "groups.k=1"], "groups.k: 1 is below 2"),
        (["groups=none", "groups.method=some"], "groups.method: unknown value 'some'"),
        (["method=dpo", "+method.regret=true"], "method.regret: the set nominal compares no groups"),
    ],
)
def test_a_bad_config_is_refused_before_a_model_is_loaded(small, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_config(small(*overrides))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["groups=annotators"], "groups.by: the pairs have no column 'annotator'"),
        (["groups=calibrated"], "groups.method: calibrated needs vote shares"),
        (["groups=column", "groups.by=country"], "groups.by: the pairs have no column 'country'"),
        (["groups=bins", "groups.by=population"], "groups.by: column 'population' is not a column of numbers"),
        (["groups=overlooked", "groups.layers=[0,9]"], "groups.layers: the model has the layers 0 to "),
    ],
)
def test_pairs_that_cannot_serve_are_refused_in_one_line(small, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        prepared(small(*FEW, *overrides))
    assert str(refused.value).startswith(message) and "\n" not in str(refused.value)
