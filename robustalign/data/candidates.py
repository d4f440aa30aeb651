"""Candidates: for each prompt, n replies; their scores under every objective are kept beside them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from robustalign.config import Config, DatasetConfig
from robustalign.data.prompts import Prompt, messages, said
from robustalign.data.sources import chitchat, tables
from robustalign.errors import ConfigError
from robustalign.policies.encode import decode, prompt_ids, reply_ids
from robustalign.policies.generate import sample_replies


@dataclass(frozen=True)
class Candidates:
    """One split's prompts and replies, with scores ``{objective: [P, n]}`` and reference log-probs ``[P, n]``.

    ``table`` columns: turns (lists of ``{role, content}``), group, prompt_ids, replies (n texts), reply_ids (n lists
    ending in one EOS).
    """

    table: Dataset
    scores: Mapping[str, np.ndarray]
    reference_logps: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    @property
    def asked(self) -> list[str]:
        """What was said last in each prompt, ``[P]``."""
        return asked(self.table)

    @property
    def prompt_ids(self) -> Sequence[list[int]]:
        return self.table["prompt_ids"][:]

    @property
    def reply_ids(self) -> Sequence[list[list[int]]]:
        return self.table["reply_ids"][:]


def check_source(config: DatasetConfig) -> None:
    """Whether the data are there at all.

    Raises:
        ConfigError: a missing wheel, folder or column, or an empty data set.
    """
    if config.source == "chitchat":
        chitchat.location()
    else:
        tables.check(config)


def select_prompts(config: Config, split: str, tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    """The split's prompts, in an order drawn with ``dataset.seed``; those too long for the model are left out.

    With ``shift.visible=tag`` every prompt appears once per group, with the group's name in its text.

    Raises:
        ConfigError: no prompt is left.
    """
    dataset = config.dataset
    if dataset.source == "chitchat":
        found = chitchat.prompts(split, min_words=dataset.min_words, max_words=dataset.max_words)
    else:
        found = tables.prompts(dataset, split)
    if not found:
        raise ConfigError("dataset.path" if dataset.path else "dataset.min_words", f"no prompt in the {split} split")
    if config.shift.visible == "tag":
        found = [_tagged(prompt, name) for prompt in found for name in config.shift.objectives]
    random.Random(dataset.seed).shuffle(found)
    room = config.model.max_length - dataset.sampling.max_new_tokens - 1
    wanted = getattr(dataset, f"{split}_prompts")
    fits: list[Prompt] = []
    for prompt in found:
        if len(fits) == wanted:
            break
        if len(prompt_ids(tokenizer, messages(prompt.turns), config.model.system_prompt)) <= room:
            fits.append(prompt)
    if not fits:
        raise ConfigError("model.max_length", f"{config.model.max_length} is shorter than every prompt and a reply")
    return fits


def _tagged(prompt: Prompt, group: str) -> Prompt:
    last = replace(prompt.turns[-1], content=f"[{group}] {prompt.text}")
    return replace(prompt, turns=(*prompt.turns[:-1], last), group=group)


def sample_candidates(
    config: Config, split: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path
) -> None:
    """Sample ``dataset.samples`` replies to each prompt of a split and save the table in ``target``."""
    prompts = select_prompts(config, split, tokenizer)
    ids = [prompt_ids(tokenizer, messages(prompt.turns), config.model.system_prompt) for prompt in prompts]
    replies = sample_replies(
        model,
        tokenizer,
        ids,
        count=config.dataset.samples,
        sampling=config.dataset.sampling,
        seed=config.dataset.seed,
        progress=f"sampling {split} candidates",
    )
    _save(prompts, ids, [[decode(tokenizer, r) for r in row] for row in replies], replies, target)


def given_candidates(config: Config, split: str, tokenizer: PreTrainedTokenizerBase, target: Path) -> int:
    """Save people's comparisons as candidates (chosen first) in ``target``; returns how many were too long.

    Raises:
        ConfigError: nothing is left.
    """
    found = tables.comparisons(config.dataset, split)
    random.Random(config.dataset.seed).shuffle(found)
    prompts: list[Prompt] = []
    ids: list[list[int]] = []
    texts: list[list[str]] = []
    replies: list[list[list[int]]] = []
    dropped = 0
    for row in found:
        if len(prompts) == getattr(config.dataset, f"{split}_prompts"):
            break
        prompt = prompt_ids(tokenizer, messages(row.prompt.turns), config.model.system_prompt)
        both = [reply_ids(tokenizer, said(row.chosen)), reply_ids(tokenizer, said(row.rejected))]
        if len(prompt) + max(map(len, both)) > config.model.max_length:
            dropped += 1
            continue
        prompts.append(row.prompt)
        ids.append(prompt)
        texts.append([said(row.chosen), said(row.rejected)])
        replies.append(both)
    if not prompts:
        key = "model.max_length" if dropped else "dataset.path"
        raise ConfigError(key, f"no comparison is left in the {split} split ({dropped} were too long)")
    _save(prompts, ids, texts, replies, target)
    return dropped


def _save(
    prompts: list[Prompt], ids: list[list[int]], texts: list[list[str]], replies: list[list[list[int]]], target: Path
) -> None:
    table = {
        "turns": [messages(prompt.turns) for prompt in prompts],
        "group": [prompt.group for prompt in prompts],
        "prompt_ids": ids,
        "replies": texts,
        "reply_ids": replies,
    }
    Dataset.from_dict(table).save_to_disk(target, max_shard_size="1GB")


def asked(table: Dataset) -> list[str]:
    """What was said last in each prompt of a table of candidates, ``[P]``."""
    return [turns[-1]["content"] for turns in table["turns"]]


def split_key(config: Config, split: str) -> dict:
    """What the candidates of a split depend on, beside the model: the key of their artefact."""
    dataset: DatasetConfig = config.dataset
    keep = ("source", "path", "revision", "prompt_column", "seed")
    key = {name: getattr(dataset, name) for name in keep}
    key |= {"split": split, "prompts": getattr(dataset, f"{split}_prompts")}
    key |= {"max_length": config.model.max_length, "system_prompt": config.model.system_prompt}
    if dataset.source == "preferences":
        return key | {"columns": [dataset.chosen_column, dataset.rejected_column]}
    key |= {"samples": dataset.samples, "sampling": vars(dataset.sampling).copy()}
    if dataset.source == "chitchat":
        key |= {"words": [dataset.min_words, dataset.max_words]}
    if config.shift.visible == "tag":
        key |= {"tags": list(config.shift.objectives)}
    return key
