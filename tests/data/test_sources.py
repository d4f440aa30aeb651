"""Splits that nothing crosses, and data sets in the formats that hubs use."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from robustalign.cache import ArtefactCache
from robustalign.config import DatasetConfig
from robustalign.data.rows import key, rows
from robustalign.data.sources import chitchat
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
    return DatasetConfig(**{"name": "d", "source": "preferences", "path": str(path)} | changes)


def read(config: DatasetConfig, cache) -> dict[str, list[dict]]:
    """Every split's rows of the table."""
    found = rows(config, ArtefactCache(cache))
    return {split: [found.table[int(i)] for i in index] for split, index in found.index.items()}


ROWS = {
    "prompt": [f"question {i}" for i in range(200)] + ["question 7"],
    "chosen": [f"good {i}" for i in range(201)],
    "rejected": [f"bad {i}" for i in range(201)],
}


def test_one_table_is_split_by_its_prompts(tmp_path) -> None:
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "d")
    parts = read(config(tmp_path / "d"), tmp_path)
    assert sum(map(len, parts.values())) == 201
    assert 130 < len(parts["train"]) < 190
    of_seven = {
        split: sum(row["prompt"][0]["content"] == "question 7" for row in found) for split, found in parts.items()
    }
    assert sorted(of_seven.values()) == [0, 0, 2]


def test_named_splits_are_kept_and_repeated_prompts_stay_in_the_first(tmp_path) -> None:
    part = lambda *texts: Dataset.from_dict({"prompt": list(texts)})  # noqa: E731
    DatasetDict(train=part("a b", "c"), validation=part("A  b", "d"), test=part("d", "e")).save_to_disk(tmp_path / "d")
    found = rows(config(tmp_path / "d", source="prompts"), ArtefactCache(tmp_path))
    texts = {s: [found.table[int(i)]["prompt"][0]["content"] for i in index] for s, index in found.index.items()}
    assert texts == {"train": ["a b", "c"], "validation": ["d"], "test": ["e"]}
    assert found.account.splits["validation"] == {
        "kept": 1,
        "dropped": {"prompt also in the train split": 1},
        "first": {},
    }
    assert found.account.splits["test"] == {
        "kept": 1,
        "dropped": {"prompt also in the validation split": 1},
        "first": {},
    }


def test_text_and_chat_forms_give_the_same_comparison(tmp_path) -> None:
    chat = {
        "prompt": [[{"role": "user", "content": "tea?"}]],
        "chosen": [[{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "yes"}]],
        "rejected": [[{"role": "assistant", "content": "no"}]],
    }
    text = {"prompt": ["tea?"], "chosen": ["yes"], "rejected": ["no"]}
    found = []
    for name, cells in (("chat", chat), ("text", text)):
        Dataset.from_dict(cells).save_to_disk(tmp_path / name)
        found.append([row for part in read(config(tmp_path / name), tmp_path).values() for row in part])
    turns = [[row[name] for name in ("prompt", "chosen", "rejected")] for (row,) in found]
    assert turns[0] == turns[1]
    (row,) = found[0]
    assert row["prompt"] == [{"role": "user", "content": "tea?"}]
    assert (row["chosen"], row["rejected"]) == tuple([{"role": "assistant", "content": t}] for t in ("yes", "no"))


def test_a_missing_column_is_named(tmp_path) -> None:
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "d")
    with pytest.raises(ConfigError, match=r"dataset\.fields\.chosen: .* has no column 'best'; it has: prompt, chosen"):
        rows(config(tmp_path / "d", fields={"chosen": "best"}), ArtefactCache(tmp_path))


def test_an_edit_is_seen_and_a_copy_is_the_same(tmp_path) -> None:
    """The key is what the files hold, not where they are."""
    row = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    for name, text in (("one", row), ("two", row), ("three", row.replace("b", "d"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.jsonl").write_text(text)
    one, two, three = (key(config(tmp_path / name / "data.jsonl")) for name in ("one", "two", "three"))
    assert one == two != three
    (tmp_path / "one" / "data.jsonl").write_text(row.replace("b", "d"))
    assert key(config(tmp_path / "one" / "data.jsonl")) == three
