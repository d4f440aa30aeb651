"""Runs on people's comparisons: who is trained on, who is tested on, and what is told of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robustalign.config import Config
from robustalign.data.candidates import split_rows
from robustalign.data.whole_groups import columns_of
from robustalign.errors import ConfigError
from robustalign.pipeline import program
from robustalign.pipeline.checks import check_config
from robustalign.pipeline.stages import Stages
from robustalign.pipeline.training_rows import prepare
from robustalign.run.folder import RunFolder
from robustalign.run.journal import Journal
from robustalign.training.objective import build_objective
from tests.conftest import SMALL, compose_config

WORDS = ("tea", "coffee", "rain", "snow", "cats", "dogs", "books", "films", "bread", "jam", "boats", "trains")
SIZES = ("trainer.batch_size=8", "trainer.micro_batch_size=4", "trainer.max_steps=2", "evaluation.bootstrap=50")


def write(path: Path) -> Path:
    """For every pair of words four votes on the same two replies: two people of US choose one, two of UK the other."""
    votes = []
    for number, (a, b) in enumerate(itertools.permutations(WORDS, 2)):
        for voter in range(4):
            country = "US" if voter < 2 else "UK"
            one, other = f"I like {a} more.", "no idea"
            chosen, rejected = (one, other) if country == "US" else (other, one)
            row = {"prompt": f"do you like {a} or {b}?", "chosen": chosen, "rejected": rejected}
            row |= {"country": country, "who": f"{country}{(number + voter) % 14}", "word": a}
            votes.append(row | {"when": f"2024-01-{1 + number % 28:02d}"})
    path.write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("people") / "votes.jsonl")


@pytest.fixture
def people(data: Path, tmp_path_factory):
    """Compose a config of the votes; the cache is shared by the tests of this module."""
    shared = data.parent
    places = (f"paths.output={tmp_path_factory.mktemp('out')}", f"paths.cache={shared / 'cache'}")
    columns = ("country", "who", "when", "word")
    carried = "{" + ", ".join(f"{name}: {name}" for name in columns) + "}"
    fixed = ("dataset=preferences", f"dataset.path={data}", f"++dataset.columns={carried}", "evaluation.annotator=who")
    small = [word for word in SMALL if not word.startswith(("dataset.", "shift."))]
    return lambda *words: compose_config(*small, *SIZES, *fixed, "shift.min_rows=5", *places, *words)


def run(config: Config) -> RunFolder:
    check_config(config)
    folder = RunFolder(Path(config.paths.output) / "run")
    folder.freeze(config)
    program.run(config, folder, Journal(folder.journal), lambda: False)
    return folder


def rows_of(config: Config):
    stages = Stages(config)
    objective = build_objective(config.method, config.trainer.batch_size)
    return stages.shift, prepare(stages, objective, stages.candidates("train")).rows


NOMINAL = ("shift=groups", "shift.by=country", "+shift.nominal={US: 0.9, UK: 0.1}")


def test_a_group_without_held_out_rows_is_told_before_anything_starts(people) -> None:
    words = ("shift=groups", "shift.by=word", "shift.min_rows=1")
    lines = [line for line in check_config(people(*words)) if line.startswith("shift.nominal")]
    assert len(lines) == 2 and "no validation row is of " in lines[0] and "no test row is of " in lines[1]
    assert not [line for line in check_config(people("shift=groups", "shift.by=country")) if "NaN" in line]


def test_a_run_tells_groups_apart(people) -> None:
    """Two groups who always want the opposite of the same items."""
    folder = run(people("shift=groups", "shift.by=country", "evaluation.generate=never"))
    table = pd.read_csv(folder.results / "targets.csv")
    test = table.query("control == 'policy' and split == 'test' and metric == 'accuracy'").set_index("target")["value"]
    assert test["US"] + test["UK"] == pytest.approx(1) and test["nominal"] == pytest.approx(0.5)
    assert test["worst"] == min(test["US"], test["UK"])
    shift = pd.read_csv(folder.results / "shift.csv").set_index("target")
    assert shift["tv"].tolist() == [0.5, 0.5] and shift["kl"].tolist() == pytest.approx([np.log(2)] * 2)
    # of three others who voted on an item one is a compatriot: 1/3 agree; half of the nominal people disagree at all
    assert shift["disagreement"].tolist() == pytest.approx([0.5, 0.5])
    assert shift["auc"].tolist() == pytest.approx([0.5, 0.5], abs=1e-6), "both were asked the same"
    told = pd.read_csv(folder.results / "people.csv").query("split == 'test'").set_index(["target", "metric"])["value"]
    assert told["US", "agreement"] == told["UK", "agreement"] == 1 and told["nominal", "agreement"] == 0.5
    assert 0 <= told["US", "calibration"] <= 1
    assert "worst tenth of people" not in told.index.get_level_values("target"), "nobody has ten held-out votes"
    groups = pd.read_csv(folder.results / "people_groups.csv").set_index("group")
    assert groups.loc["US"].tolist() == ["US", *groups.loc["UK"].tolist()[1:]]


def test_training_pairs_have_the_nominal_shares_and_each_group_its_own_choices(people) -> None:
    shift, rows = rows_of(people(*NOMINAL))
    names = [component.name for component in shift.components]
    share = np.mean(rows.pairs.annotator == names.index("UK"))
    assert share == pytest.approx(0.1, abs=0.01) and "weight" not in rows.columns
    table = rows.replies
    for pair in range(0, len(rows.pairs), 17):
        said = Stages(people()).tokenizer.decode(table[rows.pairs.prompt[pair]][rows.pairs.chosen[pair]])
        assert ("no idea" in said) == (names[rows.pairs.annotator[pair]] == "UK")


def test_the_oracle_weighs_or_takes_the_targets_own_pairs(people) -> None:
    shift, rows = rows_of(people(*NOMINAL, "method=oracle", "method.target=UK"))
    uk = rows.pairs.annotator == [c.name for c in shift.components].index("UK")
    assert rows.columns["weight"][uk] == pytest.approx(10) and rows.columns["weight"][~uk] == pytest.approx(0)
    shift, rows = rows_of(people(*NOMINAL, "method=own_pairs", "method.target=UK"))
    assert "weight" not in rows.columns
    assert {shift.components[i].name for i in rows.pairs.annotator} == {"UK"}
    shift, rows = rows_of(people("shift=groups", "shift.by=country", "+shift.nominal={US: 1}", "method=oracle"))
    assert {shift.components[i].name for i in rows.pairs.annotator} == {"UK"}, "whom the nominal population lacks"


def test_group_robust_weighs_groups_of_people(people) -> None:
    config = people(*NOMINAL, "method=group_robust")
    rows = rows_of(config)[1]
    assert np.array_equal(rows.columns["group"], rows.pairs.annotator)
    check_config(config)
    with pytest.raises(ConfigError, match=r"method\.set: one group alone is trained on"):
        check_config(people("shift=groups", "shift.by=country", "+shift.nominal={US: 1}", "method=group_robust"))


def test_a_whole_group_is_tested_on_all_of_its_rows_and_no_prompt_lies_on_both_sides(people) -> None:
    held_out = "{" + ", ".join(f"{word}: 0.1" for word in WORDS[:10]) + "}"
    config = people("shift=domain", "shift.by=word", f"+shift.nominal={held_out}".replace("+", "", 1))
    rows = split_rows(config, Stages(config).cache)
    words = {split: set(columns_of(rows, index)["word"]) for split, index in rows.index.items()}
    assert words["train"] == set(WORDS[:10]) and set(WORDS[10:]) <= words["test"]
    asked = {split: {str(rows.table[int(i)]["prompt"]) for i in index} for split, index in rows.index.items()}
    assert not asked["train"] & asked["test"] and not asked["train"] & asked["validation"]
    plain = split_rows(people("shift=groups", "shift.by=word"), Stages(config).cache)
    moved = set(plain.index["train"].tolist()) - set(rows.index["train"].tolist())
    assert moved <= set(rows.index["test"].tolist()) and moved
    shift = Stages(config).shift
    assert shift.importance(WORDS[-1]) is None


def test_people_and_time_part_rows_within_the_splits(people) -> None:
    shift = Stages(people("shift=annotators", "shift.by=who", "shift.held_out=0.3")).shift
    rows = Stages(people()).candidates("test").columns
    new = {who for who, member in zip(rows["who"], shift.members(rows), strict=True) if member == 1}
    train = Stages(people()).candidates("train").columns
    seen = {who for who, member in zip(train["who"], shift.members(train), strict=True) if member == 0}
    assert new and seen and not new & seen
    late = Stages(people("shift=time", "shift.by=when", "shift.cut='2024-01-15'", "shift.windows=2")).shift
    assert [c.name for c in late.components] == ["past", "window 1", "window 2"]
    assert (late.members(train) == 0).tolist() == (train["when"] < "2024-01-15").tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("shift=groups",), r"shift\.by: names the column"),
        (("shift=groups", "shift.by=city"), r"shift\.by: no column 'city' is carried; dataset\.columns has: country"),
        (("shift=groups", "shift.by=country", "+shift.nominal={FR: 1}"), r"shift\.nominal: no group 'FR'"),
        (("shift=groups", "shift.by=country", "shift.targets=all"), r"shift\.targets: unknown value 'all'"),
        (("shift=groups", "shift.by=country", "+shift.nominal={US: 0.5}"), r"shift\.nominal: the shares sum to 0\.5"),
        (
            ("shift=time", "shift.by=word"),
            r"shift\.by: \w+\.jsonl row \d+ of column 'word' holds 'tea', which is no date",
        ),
        (("shift=time", "shift.by=when", "shift.cut=1.5"), r"shift\.cut: 1\.5 is neither"),
        (("shift=annotators", "shift.by=[who, country]"), r"shift\.by: shift\.kind=annotators takes one column"),
        (("shift=groups", "shift.by=country", "shift.visible=natural"), r"shift\.visible: is for scorers"),
        (("shift.visible=natural",), r"shift\.visible: 'natural' needs shift\.combine=population"),
        (
            ("shift.combine=population", "shift.visible=natural", "shift.groups=[US]"),
            r"shift\.visible: 'natural' is for prompts, not for people's comparisons",
        ),
        (("shift=groups", "shift.by=country", "dataset=chitchat"), r"shift\.kind: groups is for comparisons"),
        (("shift=domain", "shift.by=word", "shift.nominal=observed"), r"shift\.nominal: must name the groups"),
        (("shift=groups", "shift.by=country", "method=oracle", "method.target=FR"), r"method\.target: no target 'FR'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_refused_before_a_model_is_loaded(people, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(people(*words))
