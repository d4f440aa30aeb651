"""Rows that are not right are one line with key, row and fix, or are counted; splits are those of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robustalign.cache import ArtefactCache
from robustalign.config import CutConfig, DatasetConfig, PairsConfig
from robustalign.data.candidates import check_source
from robustalign.data.prompts import Comparison, plain_text
from robustalign.data.reading import Account, Reading
from robustalign.data.splits import SPLITS
from robustalign.errors import ConfigError
from tests.conftest import compose_config

PAIRS = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(60)]
CHOICE = [{"prompt": f"q{i}", "a": "one", "b": "two", "won": "x", "at": i} for i in range(60)]
WINNER = {"field": "won", "first": ["x"], "second": ["y"]}
CHOSEN = {"format": "choice", "fields": {"first": "a", "second": "b", "prompt": "prompt", "winner": WINNER}}
AGE = {"field": "prompt", "bins": [0, 35]}
BY_COLUMN = {"splits": {"column": "won", "train": ["x"], "test": ["z"]}}


def config(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> DatasetConfig:
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DatasetConfig(**{"name": "d", "source": "preferences", "path": str(file)} | changes)


def read(data: DatasetConfig) -> tuple[list[Comparison], Account]:
    reading = Reading(data)
    return list(reading.comparisons()), reading.place()[1]


def changed(rows: list[dict[str, Any]], place: int, **cells: Any) -> list[dict[str, Any]]:
    return [row | cells if i == place else row for i, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (changed(PAIRS, 3, chosen=None), {}, r"fields\.chosen: d\.jsonl row 4 \(counted from 1\) is empty.*=drop"),
        ([{"prompt": "q", "chosen": "a"}], {}, r"fields\.rejected: .*has no column 'rejected'; it has: prompt, chosen"),
        (changed(PAIRS, 5, rejected=7), {}, r"fields\.rejected: d\.jsonl row 6 .*not int \(7\)"),
        (changed(PAIRS, 5, prompt=1.5), {}, r"fields\.prompt: d\.jsonl row 6 .*not float"),
        (changed(CHOICE, 8, won="mars"), CHOSEN, r"fields\.winner: d\.jsonl row 9 .*unknown winner 'mars'; say what"),
        (changed(CHOICE, 8, won=None), CHOSEN, r"fields\.winner: d\.jsonl row 9 .*unknown winner ''"),
        (PAIRS, {"columns": {"age": AGE}}, r"columns\.age: d\.jsonl row 1 .*number is exp"),
        (PAIRS, {"columns": {"age": {"field": "prompt", "bins": [35, 0]}}}, r"columns\.age\.bins: .* must rise"),
        (PAIRS, {"columns": {"age": "agee"}}, r"columns\.age: .*has no column 'agee'"),
        (PAIRS, {"columns": {"age": {"field": "prompt", "bin": [1]}}}, r"columns\.age\.bin: unknown key; a field has"),
        (PAIRS, {"fields": {"prompt": {"field": "prompt", "json": True}}}, r"fields\.prompt: .*row 1 .*JSON that"),
        (PAIRS, {"fields": {"propmt": "x"}}, r"fields\.propmt: the format pairs has no such field; it has: chosen"),
        (PAIRS, {"format": "pears"}, r"format: unknown value 'pears'; choose one of: choice, dialogues, pairs"),
        (PAIRS, {"format": "choice"}, r"fields\.first: is missing"),
        (PAIRS, {"splits": {"train": ["a"], "test": ["b"]}}, r"splits\.train: the data have no split 'a'"),
        (PAIRS, {"splits": {"dev": ["a"]}}, r"splits\.dev: unknown key"),
        (CHOICE, CHOSEN | BY_COLUMN, r"splits\.test: .* 'z'; they have: x"),
        (PAIRS, {"split_by": "country"}, r"split_by: 'country' is not prompt, replies or a column"),
        (PAIRS, {"join": {"side": {"path": "nothing.jsonl", "key": "prompt"}}}, r"join\.side\.path: no file"),
        ([], {}, r"path: .*is empty"),
    ],
)  # fmt: skip
def test_one_line_names_the_key_the_row_and_the_fix(tmp_path, rows, settings, message) -> None:
    with pytest.raises(ConfigError, match=rf"^dataset\.{message}"):
        read(config(tmp_path, rows, **settings))


def test_bad_rows_are_counted_where_that_is_asked_for(tmp_path) -> None:
    rows = changed(changed(PAIRS, 3, chosen=None), 9, rejected=7)
    rows = changed(changed(rows, 11, chosen="  "), 12, rejected="good")
    found, account = read(config(tmp_path, rows, bad_rows="drop"))
    assert len(found) == 56 and account.read == 60
    reasons: dict[str, int] = {}
    for split in account.splits.values():
        for reason, count in split["dropped"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    assert reasons == {"unreadable chosen": 1, "unreadable rejected": 1, "empty reply": 1, "identical replies": 1}
    first = {reason: row for split in account.splits.values() for reason, row in split["first"].items()}
    assert first["empty reply"] == "d.jsonl row 12" and "row 4 is empty" in first["unreadable chosen"]


def test_three_rows_are_too_few_for_three_splits(tmp_path) -> None:
    whole = compose_config("dataset=preferences", f"dataset.path={config(tmp_path, PAIRS[:3]).path}")
    with pytest.raises(ConfigError, match=r"dataset\.splits: no row is left in the \w+ split: 3 rows are too few"):
        check_source(whole, ("train", "validation", "test"), ArtefactCache(tmp_path / "cache"))


def test_whole_prompts_decide_not_their_last_turn(tmp_path) -> None:
    roles = ("user", "assistant", "user")
    chat = [
        [{"role": r, "content": c} for r, c in zip(roles, (f"fact {i}", "so", "Why?"), strict=True)] for i in range(200)
    ]
    _, account = read(config(tmp_path, [{"prompt": p, "chosen": "a", "rejected": "b"} for p in chat]))
    kept = {split: facts["kept"] for split, facts in account.splits.items()}
    assert sum(kept.values()) == 200 and all(kept.values())


def test_a_column_splits_and_a_missing_split_is_cut_off_train(tmp_path) -> None:
    rows = [row | {"part": "held" if i % 4 == 0 else "learn"} for i, row in enumerate(PAIRS * 4)]
    rows = [row | {"prompt": f"{row['part']} {row['prompt']} {i}"} for i, row in enumerate(rows)]
    data = config(tmp_path, rows, splits={"column": "part", "train": ["learn"], "test": ["held"]})
    reading = Reading(data)
    found = list(reading.comparisons())
    split, account = reading.place()
    assert [c.prompt.text.startswith("held") for c in found] == [code == 2 for code in split.tolist()]
    assert account.splits["test"]["kept"] == 60 and account.splits["validation"]["kept"] > 5


def test_the_cut_holds_out_the_shares_that_it_names(tmp_path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": f"yes {i % 50}", "rejected": f"no {i // 50}"} for i in range(2000)]
    _, account = read(config(tmp_path, rows, cut=CutConfig(validation=0.2, test=0.3)))
    assert [account.splits[split]["kept"] / 2000 for split in SPLITS] == pytest.approx([0.5, 0.2, 0.3], abs=0.05)
    many = [{"prompt": "q", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(10_000)]
    _, account = read(config(tmp_path, many, cut=CutConfig(validation=0.2, test=0.3), split_by="replies"))
    kept = [account.splits[split]["kept"] / 10_000 for split in SPLITS]
    assert kept == pytest.approx([0.25, 0.04, 0.09], abs=0.02), "both replies on one side"


def test_where_binning_maps_templates_and_lists_of_columns(tmp_path) -> None:
    def row(q: str, scores: list, age, country: str, keep: bool = True) -> dict[str, Any]:
        out = [{"t": text, "s": score} for text, score in zip("xy", scores, strict=False)]
        return {"q": {"text": q}, "out": out, "who": {"age": age}, "c": country, "keep": keep}

    rows = [row("a", [1, "2"], 34, "uk"), row("b", [3, 2], "55", "us"), row("c", [], 3, "us", keep=False)]
    data = config(
        tmp_path,
        rows,
        format="scores",
        fields={"prompt": "{c}: {q.text}", "text": "out.t", "score": "out.s"},
        where={"keep": True},
        columns={"age": {"field": "who.age", "bins": [0, 35, 55]}, "country": {"field": "c", "map": {"uk": "GB"}}},
        pairs=PairsConfig(rule="all"),
    )
    found, _ = read(data)
    assert [(c.prompt.text, plain_text(c.chosen), plain_text(c.rejected)) for c in found] == [
        ("uk: a", "y", "x"),
        ("us: b", "x", "y"),
    ]
    assert [dict(c.columns) for c in found] == [{"age": "0-35", "country": "GB"}, {"age": "55+", "country": "us"}]


@pytest.mark.parametrize("rule", ["all", "argmax", "best_worst", "bradley_terry"])
def test_pairs_of_scores_follow_the_rule(tmp_path, rule: str) -> None:
    scores = [5.0, 1.0, 3.0, 3.0]
    listed = [{"text": f"r{i}", "score": s} for i, s in enumerate(scores)]
    data = config(
        tmp_path,
        [{"prompt": f"q{i}", "replies": listed} for i in range(200)],
        format="scores",
        fields={"replies": "replies", "text": "reply.text", "score": "reply.score"},
        pairs=PairsConfig(rule=rule, m=3, per_prompt=2, temperature=1.0),
    )
    found, _ = read(data)
    gaps = [scores[int(plain_text(c.chosen)[1:])] - scores[int(plain_text(c.rejected)[1:])] for c in found]
    if rule == "all":
        assert len(found) == 200 * 5 and min(gaps) > 0
    elif rule == "argmax":
        assert len(found) == 200 and set(gaps) == {4.0}
    elif rule == "best_worst":
        assert set(gaps) <= {4.0, 2.0} and 200 < len(found) <= 400
    else:
        wins = [gap > 0 for gap in gaps if abs(gap) == 2.0]
        assert 0.8 < sum(wins) / len(wins) < 0.95, "sigmoid(2) = .88"


def test_people_label_unless_the_config_says_otherwise(tmp_path) -> None:
    where = f"dataset.path={tmp_path}"
    assert compose_config("dataset=preferences", where).shift.objectives == ["human"]
    with pytest.raises(ConfigError, match=r"shift\.objectives: \['joy'\] are scorers.*dataset\.relabel=true"):
        compose_config("dataset=preferences", where, "shift=none")
    assert compose_config("dataset=preferences", where, "shift=none", "dataset.relabel=true").shift.objectives == [
        "joy"
    ]
