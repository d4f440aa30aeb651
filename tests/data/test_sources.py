"""Splits that nothing crosses, and data sets in the formats that hubs use."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from robustalign.config import DatasetConfig
from robustalign.data.prompts import Turn
from robustalign.data.sources import chitchat, tables
from robustalign.data.splits import SPLITS, split_of, text_key
from robustalign.errors import ConfigError


def test_splits_are_a_stable_function_of_the_id() -> None:
    ids = [f"conversation-{i}" for i in range(20_000)]
    shares = {split: sum(split_of(i) == split for i in ids) / len(ids) for split in SPLITS}
    assert shares["train"] == pytest.approx(0.8, abs=0.01)
    assert shares["validation"] == pytest.approx(0.1, abs=0.01)
    assert split_of("a fixed id") == "train" and split_of("c1") == split_of("c1")


def test_no_prompt_text_is_in_two_splits() -> None:
    prompts = {split: chitchat.prompts(split, min_words=3, max_words=12) for split in SPLITS}
    texts = {split: {text_key(p.text) for p in found} for split, found in prompts.items()}
    assert not texts["train"] & texts["validation"] and not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]
    assert all(len(texts[split]) == len(prompts[split]) > 1000 for split in SPLITS)
    said_in_training = {
        text_key(turn) for chat in chitchat.conversations() if chat.split == "train" for turn in chat.turns
    }
    assert not said_in_training & texts["test"], "what pretraining saw is no test prompt"
    assert all(3 <= len(p.text.split()) <= 12 for p in prompts["test"])
    assert all((p.group == "question") == ("?" in p.text) for p in prompts["test"])


def config(path, **changes) -> DatasetConfig:
    return DatasetConfig(name="d", source="preferences", path=str(path), **changes)


ROWS = {
    "prompt": [f"question {i}" for i in range(200)] + ["question 7"],
    "chosen": [f"good {i}" for i in range(201)],
    "rejected": [f"bad {i}" for i in range(201)],
}


def test_one_table_is_split_by_its_prompts(tmp_path) -> None:
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "d")
    parts = {split: tables.comparisons(config(tmp_path / "d"), split) for split in SPLITS}
    assert sum(map(len, parts.values())) == 201
    assert 130 < len(parts["train"]) < 190
    owners = [split for split, rows in parts.items() if any(row.prompt.text == "question 7" for row in rows)]
    assert len(owners) == 1
    assert sum(row.prompt.text == "question 7" for row in parts[owners[0]]) == 2


def test_named_splits_are_kept_and_repeated_prompts_stay_in_the_first(tmp_path) -> None:
    part = lambda *texts: Dataset.from_dict({"prompt": list(texts)})  # noqa: E731
    DatasetDict(train=part("a b", "c"), validation=part("A  b", "d"), test=part("d", "e")).save_to_disk(tmp_path / "d")
    found = {s: [p.text for p in tables.prompts(config(tmp_path / "d"), s)] for s in SPLITS}
    assert found == {"train": ["a b", "c"], "validation": ["d"], "test": ["e"]}


def test_text_and_chat_forms_give_the_same_comparison(tmp_path) -> None:
    chat = {
        "prompt": [[{"role": "user", "content": "tea?"}]],
        "chosen": [[{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "yes"}]],
        "rejected": [[{"role": "assistant", "content": "no"}]],
    }
    text = {"prompt": ["tea?"], "chosen": ["yes"], "rejected": ["no"]}
    found = []
    for name, rows in (("chat", chat), ("text", text)):
        Dataset.from_dict(rows).save_to_disk(tmp_path / name)
        found.append([row for split in SPLITS for row in tables.comparisons(config(tmp_path / name), split)])
    assert found[0] == found[1]
    row = found[0][0]
    assert row.prompt.turns == (Turn("user", "tea?"),)
    assert (row.chosen, row.rejected) == ((Turn("assistant", "yes"),), (Turn("assistant", "no"),))


def test_a_missing_column_is_named(tmp_path) -> None:
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"dataset\.chosen_column: .* has no column 'best'; it has: prompt, chosen"):
        tables.check(config(tmp_path / "d", chosen_column="best"))
