"""Candidates hold the rows that they were made of: roles, ids that were sampled or written, and texts."""

from __future__ import annotations

import copy
import json

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from robustalign.cache import ArtefactCache
from robustalign.data.candidates import prompt_texts, sample_candidates, select_prompts
from robustalign.data.given import ACCOUNT, given_candidates
from robustalign.data.rows import Rows, rows
from robustalign.errors import ConfigError
from robustalign.policies.encode import Encoder
from tests.conftest import tiny_llama

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.fixture
def encoder(tokenizer) -> Encoder:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    return Encoder(tokenizer)


def saved(path, prompt: list, chosen: list, rejected: list) -> str:
    rows = Dataset.from_dict({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    other = {part: Dataset.from_dict({key: [part] for key in rows.column_names}) for part in ("a", "b")}
    DatasetDict(train=rows, validation=other["a"], test=other["b"]).save_to_disk(path)
    return str(path)


def out(path):
    (path / "out").mkdir(exist_ok=True)
    return path / "out"


def read(config) -> Rows:
    return rows(config.dataset, ArtefactCache(config.paths.cache))


def test_comparisons_keep_roles_texts_and_ends(small, encoder, tmp_path) -> None:
    prompt = [turn("system", "be kind"), turn("user", "how warm is it?")]
    chosen, rejected = (
        [turn("assistant", "which <eos> place")],
        [turn("assistant", "a"), turn("user", "b"), turn("assistant", "c")],
    )
    path = saved(tmp_path / "d", [prompt], [chosen], [rejected])
    config = small("dataset=preferences", f"dataset.path={path}", "shift.objectives=[human]")
    given_candidates(config, "train", encoder, read(config), out(tmp_path))
    table = load_from_disk(tmp_path / "out")
    assert table["turns"][0] == prompt and prompt_texts(table) == ["how warm is it?"]
    assert table["replies"][0] == ["which <eos> place", "a\nb\nc"]
    assert table["prompt_ids"][0] == encoder.prompt(prompt)
    first, second = table["reply_ids"][0]
    eos = encoder.tokenizer.eos_token_id
    assert first == encoder.reply(prompt, chosen) and first.index(eos) == len(first) - 1
    assert second == encoder.reply(prompt, rejected) and second.count(eos) == 3


@pytest.mark.parametrize("column", ["prompt", "chosen"])
def test_a_row_that_the_template_refuses_is_named(column: str, small, encoder, tmp_path) -> None:
    prompts = [[turn("user", f"question {i}")] for i in range(6)]
    replies = [[turn("assistant", "yes")] for _ in prompts]
    if column == "prompt":
        prompts[4].append(turn("tool", "12"))
    else:
        replies[4] = [turn("assistant", "look"), turn("tool", "12"), turn("assistant", "12")]
    path = saved(tmp_path / "d", prompts, replies, [[turn("assistant", "no")] for _ in prompts])
    config = small("dataset=preferences", f"dataset.path={path}", "shift.objectives=[human]")
    with pytest.raises(ConfigError, match=r"^dataset\.path: train row 5: the chat template refuses the row: no tools"):
        given_candidates(config, "train", encoder, read(config), out(tmp_path))


@pytest.mark.parametrize("given", [True, False], ids=["comparisons", "prompts"])
def test_rows_that_the_template_refuses_can_be_left_out_and_are_counted(given, small, encoder, tmp_path) -> None:
    prompts = [[turn("user", f"question {i}"), *([turn("tool", "12")] if i in (1, 4) else [])] for i in range(6)]
    path = saved(tmp_path / "d", prompts, [[turn("assistant", "yes")]] * 6, [[turn("assistant", "no")]] * 6)
    kind = ("dataset=preferences", "shift.objectives=[human]") if given else ("dataset=prompts",)
    config = small(*kind, f"dataset.path={path}", "dataset.bad_rows=drop")
    if given:
        given_candidates(config, "train", encoder, read(config), out(tmp_path))
        kept = len(load_from_disk(tmp_path / "out"))
        dropped = json.loads((tmp_path / "out" / ACCOUNT).read_text())["dropped"]
    else:
        found, ids, dropped = select_prompts(config, "train", encoder, read(config))
        kept = len(found)
        assert ids == [encoder.prompt([turn("user", prompt.text)]) for prompt in found]
    assert kept == 4 and dropped["refused by the chat template"] == 2 and not dropped.get("too long")


def test_a_prompt_fits_if_a_longest_reply_does(small, encoder, tmp_path) -> None:
    """An end is one of the tokens that are sampled, so a reply needs no more than ``max_new_tokens``."""
    texts = [" ".join(["tea"] * i) for i in range(1, 9)]
    part = {"prompt": texts, "chosen": ["yes"] * 8, "rejected": ["no"] * 8}
    path = saved(tmp_path / "d", *part.values())
    sizes = [len(encoder.prompt([turn("user", text)])) for text in texts]
    assert sizes == sorted(set(sizes))
    room = f"model.max_length={sizes[4] + 6}"
    config = small("dataset=prompts", f"dataset.path={path}", room, "dataset.sampling.max_new_tokens=6")
    assert {prompt.text for prompt in select_prompts(config, "train", encoder, read(config))[0]} == set(texts[:5])


def test_sampled_replies_that_were_cut_stay_open(small, encoder, tmp_path) -> None:
    tokenizer = encoder.tokenizer
    model, eos = tiny_llama(vocabulary=len(tokenizer)), tokenizer.eos_token_id
    path = saved(tmp_path / "d", ["tea?", "or coffee?"], ["yes"] * 2, ["no"] * 2)
    config = small("dataset=prompts", f"dataset.path={path}")
    sample_candidates(config, "train", model, encoder, read(config), out(tmp_path))
    replies = [reply for row in load_from_disk(tmp_path / "out")["reply_ids"] for reply in row]
    cut = [reply for reply in replies if reply[-1] != eos]
    assert cut and all(eos not in reply and len(reply) == 6 for reply in cut)
