"""Text to token ids: a prompt and a reply meet at an exact boundary.

A row is ``prompt ids + reply ids``; the reply is tokenised by itself (or sampled as ids), so no merge
crosses the border, and ends in exactly one EOS, which is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from robustalign.errors import ConfigError


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], system: str | None = None
) -> list[int]:
    """Ids up to where a reply begins: the chat template, or BOS and the text where there is none.

    ``messages``: of role and content. ``system``: a system turn where they begin with none.

    Raises:
        ConfigError: a system prompt without a chat template that can hold it.
    """
    if tokenizer.chat_template is None:
        if system:
            raise ConfigError("model.system_prompt", "this tokenizer has no chat template to put it in")
        ids = tokenizer("\n".join(message["content"] for message in messages), add_special_tokens=False)["input_ids"]
        bos = tokenizer.bos_token_id
        return ids if bos is None else [bos, *ids]
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    rendered = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def reply_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a reply, ended by one EOS."""
    return close(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])


def close(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Sampled ids up to the first EOS or pad, with one EOS at the end."""
    eos = tokenizer.eos_token_id
    stops = {eos, tokenizer.pad_token_id}
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return [*ids[:end], eos]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a reply's ids."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
