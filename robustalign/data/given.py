"""People's comparisons as candidates: two replies a prompt, the chosen one first, tokenised in batches."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value, concatenate_datasets

from robustalign.config import Config, DatasetConfig
from robustalign.data.prompts import Turn, plain_text
from robustalign.data.reading import UNUSED, Account
from robustalign.data.rows import COLUMN, Rows
from robustalign.errors import ConfigError
from robustalign.policies.encode import Encoded, Encoder, Unrenderable

ACCOUNT = "account.json"  # in the folder of candidates: what became of the split's rows
TOO_LONG, NOT_NEEDED, REFUSED = "too long", "beyond dataset.{}_prompts", "refused by the chat template"
SAME = "the same tokens in both replies"
_MESSAGES = List({"role": Value("string"), "content": Value("string")})
_IDS = List(Value("int32"))


def given_candidates(config: Config, split: str, encoder: Encoder, rows: Rows, target: Path) -> None:
    """Save a split's comparisons in ``target``, in an order drawn with ``dataset.seed``, and their account.

    Rows longer than ``model.max_length`` are left out and counted; no more are tokenised than are wanted.

    Raises:
        ConfigError: nothing is left, or the chat template refuses a row, unless ``dataset.bad_rows=drop``.
    """
    index = rows.index[split].tolist()
    random.Random(config.dataset.seed).shuffle(index)
    limit = getattr(config.dataset, f"{split}_prompts")
    scratch = target / "scratch"
    scratch.mkdir()
    pieces: list[Dataset] = []
    faults: list[tuple[int, str]] = []
    tried = kept = 0
    while tried < len(index) and (limit is None or kept < limit):
        end = None if limit is None else tried + max(256, (limit - kept) * 11 // 10)
        piece = _tokenised(config, encoder, rows.table, index[tried:end], scratch / f"{len(pieces)}.arrow")
        faults_here = np.array(piece["fault"][:], dtype=object)
        faults += [(tried + place, fault) for place, fault in zip(piece["place"][:], faults_here, strict=True) if fault]
        piece = piece.select(np.flatnonzero(faults_here == ""))
        if limit is not None and kept + len(piece) >= limit:
            piece = piece.select(range(limit - kept))
            tried += piece[-1]["place"] + 1
        else:
            tried = len(index) if end is None else min(end, len(index))
        pieces.append(piece)
        kept += len(piece)
    counts = Counter(fault for place, fault in faults if place < tried)
    facts = dict(counts) | {TOO_LONG: tried - kept - counts.total(), NOT_NEEDED.format(split): len(index) - tried}
    if counts[REFUSED] == tried > 0:
        raise ConfigError("dataset.path", f"the chat template refuses every comparison of the {split} split")
    if not kept and counts[SAME]:
        problem = f"this tokenizer makes {SAME} of {counts[SAME]} comparisons of {tried} in the {split} split"
        raise ConfigError("model.path", f"{problem}, and none is left")
    if not kept:
        raise ConfigError(*nothing_left(config, split, rows.account, facts[TOO_LONG]))
    table = concatenate_datasets(pieces).remove_columns(["place", "fault"])
    table.save_to_disk(target, max_shard_size="1GB")
    del table, pieces, piece
    shutil.rmtree(scratch)
    save_account(rows.account, split, kept, facts, target)


def nothing_left(config: Config, split: str, account: Account, too_long: int = 0) -> tuple[str, str]:
    """The error about a split without a row: the key and the problem."""
    if too_long:
        problem = f"{config.model.max_length} is too short: all {too_long} comparisons of the {split} split are longer"
        return "model.max_length", problem
    if reasons := account.reasons(split) or account.reasons("train"):
        if UNUSED in reasons:
            own = ", ".join(map(repr, account.unused))
            reasons += f"; the data's own are {own}: dataset.splits={{train: ..., test: ...}}"
        key = "dataset.splits" if "also in" in reasons or UNUSED in reasons else "dataset.path"
        return key, f"no row is left in the {split} split: {reasons}"
    return "dataset.splits", (
        f"no row is left in the {split} split: {account.read} rows are too few or have too few prompts to cut one off; "
        f"name it (dataset.splits.{split}), give more rows, or choose another dataset.split_by"
    )


def save_account(account: Account, split: str, kept: int, facts: Mapping[str, int], target: Path) -> None:
    """Write what became of a split's rows: ``read`` (of all splits), ``kept``, ``dropped``, ``first``."""
    dropped = {reason: count for reason, count in {**account.splits[split]["dropped"], **facts}.items() if count}
    content = {"read": account.read, "kept": kept, "dropped": dropped, "unused": account.unused}
    content["first"] = account.splits[split]["first"]
    (target / ACCOUNT).write_text(json.dumps(content, indent=1) + "\n")


def _tokenised(config: Config, encoder: Encoder, table: Dataset, index: list[int], file: Path) -> Dataset:
    """The rows that fit or have a ``fault`` ('': none), with their ``place`` in ``index``."""
    columns = [name for name in table.column_names if name.startswith(COLUMN)]
    features = Features(
        turns=_MESSAGES,
        group=Value("string"),
        prompt_ids=_IDS,
        replies=List(Value("string")),
        reply_ids=List(_IDS),
        soft_label=Value("float64"),
        weight=Value("float64"),
        row=Value("string"),
        place=Value("int64"),
        fault=Value("string"),
        **{name: Value("string") for name in columns},
    )
    processes = config.dataset.num_proc
    return table.select(index).map(
        partial(_encode, encoder=encoder, dataset=config.dataset, longest=config.model.max_length),
        with_indices=True,
        batched=True,
        batch_size=256,
        num_proc=processes if processes > 1 else None,
        remove_columns=[name for name in table.column_names if name not in features],
        features=features,
        cache_file_name=str(file),
        load_from_cache_file=False,
        new_fingerprint=file.stem,
        desc="tokenising",
    )


def _encode(
    batch: Mapping[str, list],
    places: list[int],
    *,
    encoder: Encoder,
    dataset: DatasetConfig,
    longest: int,
) -> dict[str, list]:
    result: dict[str, list] = {name: [] for name in ("turns", "group", "prompt_ids", "replies", "reply_ids")}
    result |= {"place": [], "fault": []}
    columns = [name for name in batch if name.startswith(COLUMN) or name in ("soft_label", "weight", "row")]
    result |= {name: [] for name in columns}
    pairs = list(zip(batch["chosen"], batch["rejected"], strict=True))
    encoded = encoder.rows(list(zip(batch["prompt"], pairs, strict=True)))
    for i, (place, row_ids) in enumerate(zip(places, encoded, strict=True)):
        texts = [plain_text([Turn(**turn) for turn in reply]) for reply in pairs[i]]
        fault = REFUSED if isinstance(row_ids, Unrenderable) and refused(dataset, batch["row"][i], row_ids) else ""
        ids, both = row_ids if isinstance(row_ids, Encoded) else ([], [])
        if not fault and len(ids) + max(map(len, both)) > longest:
            continue
        if not fault and both[0] == both[1]:
            fault = SAME
        row: dict[str, Any] = {"turns": batch["prompt"][i], "group": "", "prompt_ids": ids, "replies": texts}
        row |= {"reply_ids": both, "place": place, "fault": fault} | {name: batch[name][i] for name in columns}
        for name, value in row.items():
            result[name].append(value)
    return result


def refused(dataset: DatasetConfig, row: str, error: Unrenderable) -> bool:
    """Return True if a row that the chat template refuses is to be counted and left out.

    Raises:
        ConfigError: ``dataset.bad_rows`` allows no such row.
    """
    if dataset.bad_rows == "drop":
        return True
    raise ConfigError("dataset.path", f"{row}: {error}; mend the row, or leave such rows out: dataset.bad_rows=drop")


def carried_columns(table: Dataset) -> dict[str, np.ndarray]:
    """Name -> text of each row ``[P]``, '' where the data hold nothing."""
    names = [name for name in table.column_names if name.startswith(COLUMN)]
    return {name.removeprefix(COLUMN): np.array(table[name][:], dtype=object).astype(str) for name in names}
