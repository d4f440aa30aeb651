"""Where a prompt ends and a reply begins."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from robustalign.errors import ConfigError
from robustalign.policies.encode import close, decode, prompt_ids, reply_ids


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_one_bos_first_and_one_eos_after_the_turn(tokenizer) -> None:
    ids = prompt_ids(tokenizer, chat("how are you?"))
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_reply_ends_in_exactly_one_eos(tokenizer) -> None:
    ids = reply_ids(tokenizer, "fine, thanks")
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.bos_token_id not in ids


def test_the_boundary_is_exact(tokenizer) -> None:
    """The prompt's ids are a prefix of the conversation's, so no merge crosses the border."""
    turns = ["do you like tea?", "yes, and you?"]
    whole = prompt_ids(tokenizer, chat(*turns))
    assert whole == prompt_ids(tokenizer, chat(turns[0])) + reply_ids(tokenizer, turns[1])


def test_sampled_ids_are_closed_once(tokenizer) -> None:
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert close(tokenizer, [7, 8, eos, pad, pad]) == [7, 8, eos]
    assert close(tokenizer, [7, 8, 9]) == [7, 8, 9, eos]
    assert close(tokenizer, [pad, pad]) == [eos]


def test_text_survives(tokenizer) -> None:
    assert decode(tokenizer, reply_ids(tokenizer, "what about you?")) == "what about you?"


def without_bos() -> PreTrainedTokenizerFast:
    base = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "hello": 2}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>")


def test_a_tokenizer_without_bos_or_template() -> None:
    bare = without_bos()
    assert prompt_ids(bare, chat("hello")) == [2]
    assert reply_ids(bare, "hello") == [2, 1]
    with pytest.raises(ConfigError, match=r"model.system_prompt"):
        prompt_ids(bare, chat("hello"), system="be kind")
