"""Splits where a whole group of people or prompts is held out: all of its rows are test rows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from robustalign.config import ShiftConfig
from robustalign.data.prompts import Turn
from robustalign.data.rows import COLUMN, Rows
from robustalign.data.splits import hash_of, prompt_key
from robustalign.errors import ConfigError
from robustalign.shifts.labels import build_labels

OVERLAP = "{} also trained on in another group"


def columns_of(rows: Rows, index: np.ndarray) -> dict[str, np.ndarray]:
    """Column -> text ``[P]`` of some rows."""
    names = [name for name in rows.table.column_names if name.startswith(COLUMN)]
    chosen = rows.table.select_columns(names).select(index) if names else None
    return {name.removeprefix(COLUMN): np.array(chosen[name][:], dtype=object).astype(str) for name in names if chosen}


def with_whole_groups(rows: Rows, shift: ShiftConfig, split_by: str) -> Rows:
    """The rows with those of groups without a nominal share moved from training to test.

    Rows whose prompt is trained on in another group are left out, so that no prompt lies on both sides; or rows with
    such a reply, or value of a column, where ``dataset.split_by`` says that this is what splits part.

    Raises:
        ConfigError: no row of the groups that are to be trained on is left in the training split.
    """
    assert isinstance(shift.nominal, Mapping)
    columns = {split: columns_of(rows, index) for split, index in rows.index.items()}
    labels = build_labels(shift, columns).of(columns["train"])
    trained = np.isin(labels, [name for name, share in shift.nominal.items() if share > 0])
    train = rows.index["train"]
    if not trained.any():
        raise ConfigError("shift.nominal", f"no training row is of {', '.join(map(str, shift.nominal))}")
    moved = train[~trained]
    keys = _keys(rows, train, split_by)
    apart = ~np.isin(keys[~trained], keys[trained]).any(1)
    index = dict(rows.index) | {"train": train[trained], "test": np.sort(np.r_[rows.index["test"], moved[apart]])}
    account = copy.deepcopy(rows.account)
    dropped = account.splits["test"]["dropped"]
    if not apart.all():
        dropped[OVERLAP.format(split_by)] = int((~apart).sum())
    for split in ("train", "test"):
        account.splits[split]["kept"] = len(index[split])
    return replace(rows, index=index, account=account)


def _keys(rows: Rows, index: np.ndarray, split_by: str) -> np.ndarray:
    """Numbers ``[P, k]``, equal where what splits part is equal: a prompt, each of two replies, a column's value."""
    if split_by not in ("prompt", "replies"):
        return np.array([[hash_of(value)] for value in columns_of(rows, index)[split_by]], dtype=np.uint64)
    names = ["prompt"] if split_by == "prompt" else ["chosen", "rejected"]
    table = rows.table.select_columns(names).select(index)
    cells = zip(*(table[name] for name in names), strict=True)
    return np.array([[hash_of(_text(turns)) for turns in row] for row in cells], dtype=np.uint64)


def _text(turns: Sequence[Mapping[str, str]]) -> str:
    return prompt_key([Turn(**turn) for turn in turns])
