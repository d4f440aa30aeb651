"""Text and chat messages of every common form become the turns that they are, or are refused with the reason."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict

from robustalign.cache import ArtefactCache
from robustalign.config import DatasetConfig
from robustalign.data.prompts import Turn
from robustalign.data.rows import rows
from robustalign.data.sources.cells import prompt_turns, reply_turns
from robustalign.errors import ConfigError


def turns(*pairs: str) -> tuple[Turn, ...]:
    return tuple(Turn(*pair.split(":", 1)) for pair in pairs)


def chat(*pairs: str, role: str = "role", content: str = "content") -> list[dict[str, str]]:
    return [dict(zip((role, content), pair.split(":", 1), strict=True)) for pair in pairs]


def test_roles_stay_as_they_are() -> None:
    roles = ("system:be kind", "user:one", "user:two", "assistant:three", "tool:12", "ipython:x", "assistant:four")
    assert prompt_turns(chat(*roles)) == turns(*roles)
    assert reply_turns(chat("assistant:which", "user:this", "assistant:ok"), ()) == turns(
        "assistant:which", "user:this", "assistant:ok"
    )


@pytest.mark.parametrize("text", ["", "  indented\n", "Hi", "High time", "the token <eos> ends"])
def test_text_is_text(text: str) -> None:
    assert prompt_turns(text) == (Turn("user", text),)
    assert reply_turns(text, turns("user:Hi")) == (Turn("assistant", text),)


def test_messages_of_other_keys_and_of_parts() -> None:
    given = chat("system:s", "human:h", "gpt:g", "observation:o", role="from", content="value")
    assert prompt_turns(given) == turns("system:s", "user:h", "assistant:g", "observation:o")
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert prompt_turns([{"role": "user", "content": parts}]) == turns("user:one two")
    assert prompt_turns({"role": "user", "content": "alone"}) == turns("user:alone")


def test_a_reply_may_repeat_its_prompts_messages() -> None:
    prompt = turns("system:be kind", "user:tea?")
    for start in (("system:be kind", "user:tea?"), ("user:tea?",), ()):
        assert reply_turns(chat(*start, "assistant:yes"), prompt) == turns("assistant:yes")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "is empty"),
        (7, "not int"),
        (float("nan"), "not float"),
        ([], "holds no message"),
        (["yes"], "a role and a content"),
        ([None], "a role and a content"),
        (chat("assistant:a", role="who"), "no role"),
        ([{"role": "assistant", "content": None}], "'assistant' has no content"),
        ([{"role": "assistant", "content": 3}], "is int, not text"),
        ([{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}], "holds tool_calls"),
        ([{"role": "assistant", "content": [{"type": "image", "text": None}]}], "part of type 'image'"),
        (chat("assistant:yes", "user:thanks"), "ends with a turn of the assistant, not of 'user'"),
        (chat("user:another", "assistant:yes"), "begins with a turn of the assistant, not of 'user'"),
        (chat("user:tea?"), "nothing follows the prompt"),
    ],
)
def test_what_is_no_reply_is_refused(value, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        reply_turns(value, turns("user:tea?"))


def test_the_row_and_the_column_are_named(tmp_path) -> None:
    part = {"prompt": ["a", "b", "c"], "chosen": ["yes", "yes", None], "rejected": ["no"] * 3}
    fine = {"prompt": ["d"], "chosen": ["yes"], "rejected": ["no"]}
    splits = {"train": fine, "validation": fine | {"prompt": ["e"]}, "test": part}
    DatasetDict({k: Dataset.from_dict(v) for k, v in splits.items()}).save_to_disk(tmp_path / "d")
    config = DatasetConfig(name="d", source="preferences", path=str(tmp_path / "d"))
    message = r"dataset\.fields\.chosen: test row 3 \(counted from 1\) is empty.*; mend it, or .*dataset\.bad_rows=drop"
    with pytest.raises(ConfigError, match=message):
        rows(config, ArtefactCache(tmp_path))
    config.bad_rows = "drop"
    found = rows(config, ArtefactCache(tmp_path))
    assert found.table["row"][:] == ["train row 1", "validation row 1", "test row 1", "test row 2"]
    assert found.account.splits["test"]["dropped"] == {"unreadable chosen": 1}
