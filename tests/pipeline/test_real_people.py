"""Shifts over real judgements, where they are: groups, distances and splits of UKPConvArg1."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from robustalign.data.candidates import split_rows
from robustalign.data.items import items_of
from robustalign.data.splits import hash_of
from robustalign.data.whole_groups import columns_of
from robustalign.pipeline.checks import check_config
from robustalign.pipeline.stages import Stages
from robustalign.shifts.columns import column_shift
from robustalign.shifts.distances import ItemVotes
from tests.conftest import compose_config

SHARED = Path(os.environ.get("ROBUSTALIGN_PEOPLE", Path(__file__).resolve().parents[3] / "shared" / "people"))
FILE = SHARED / "ukp_convarg1" / "ukp_convarg1.jsonl.gz"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.is_file(), reason=f"no {FILE}; ROBUSTALIGN_PEOPLE names the folder of real judgements"),
]


@pytest.fixture(scope="module")
def ukp(tmp_path_factory):
    """Compose a config of the debates; the rows are read once."""
    place = tmp_path_factory.mktemp("ukp")
    fixed = ("dataset=ukp_convarg1", f"dataset.path={FILE}", f"paths.cache={place / 'cache'}", f"paths.output={place}")
    return lambda *words: compose_config(*fixed, *words)


def counted() -> tuple[float, float]:
    """How often two decided votes on the same two arguments agree, within a stance and between two, by a plain loop."""
    votes: dict[tuple, list[tuple[str, str]]] = {}
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["arg1"] == row["arg2"]:
            continue
        item = votes.setdefault((row["title"], row["stance"], frozenset((row["arg1"], row["arg2"]))), [])
        for vote in row["votes"]:
            if vote["value"] != "equal" and vote["worker_stance"]:
                item.append((row["arg1"] if vote["value"] == "a1" else row["arg2"], vote["worker_stance"]))
    agreed: dict[bool, list[bool]] = {True: [], False: []}
    for item in votes.values():
        for (one, his), (other, hers) in itertools.combinations(item, 2):
            agreed[his == hers].append(one == other)
    return float(np.mean(agreed[True])), float(np.mean(agreed[False]))


def test_stance_is_a_weak_group_and_people_agree_as_a_loop_counts(ukp) -> None:
    config = ukp("shift=groups", "shift.by=stance")
    check_config(config)
    rows = split_rows(config, Stages(config).cache)
    everything = np.arange(len(rows.table))
    columns = columns_of(rows, everything)
    shift = column_shift(config.shift, {"train": columns, "test": columns}, ["test"])
    assert [c.name for c in shift.components] == ["none", "opposite", "same", "unknown"]
    table = rows.table.select_columns(["prompt", "chosen", "rejected"])
    prompts = [[hash_of(repr(cell)) >> 2] for cell in table["prompt"]]
    replies = [[a[0]["content"], b[0]["content"]] for a, b in zip(table["chosen"], table["rejected"], strict=True)]
    judged = items_of(prompts, replies)
    first, one = judged.chosen_first.astype(float), np.ones(len(everything))
    votes = ItemVotes.of(judged.item, first, one, shift.members(columns), 4)
    agree = 1 - votes.disagreement()[:3, :3]
    pairs = (votes.votes.T @ votes.votes - np.diag(votes.own_pairs.sum(0)))[:3, :3]
    same = np.eye(3, dtype=bool)
    within, between = (np.average(agree[part], weights=pairs[part]) for part in (same, ~same))
    assert (within, between) == pytest.approx(counted(), rel=1e-9)
    assert 0.005 < within - between < 0.03


def test_held_out_debates_are_tested_whole_and_no_prompt_is_on_both_sides(ukp) -> None:
    plain = ukp("shift=groups", "shift.by=debate")
    rows = split_rows(plain, Stages(plain).cache)
    trained = sorted(set(columns_of(rows, rows.index["train"])["debate"]))[:10]
    held_out = ukp("shift=domain", "shift.by=debate", "shift.nominal={x: 1}")
    held_out.shift.nominal = dict.fromkeys(trained, 0.1)
    check_config(held_out)
    rows = split_rows(held_out, Stages(held_out).cache)
    debates = {split: columns_of(rows, index)["debate"] for split, index in rows.index.items()}
    assert set(debates["train"]) <= set(trained) and len(set(debates["test"]) - set(trained)) == 6
    asked = {split: set(map(repr, rows.table.select(index)["prompt"])) for split, index in rows.index.items()}
    assert not asked["train"] & asked["test"]
