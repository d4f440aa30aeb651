"""Data sets from a hub or a local ``save_to_disk`` folder: prompts, or prompts with two replies.

A data set with splits named train, validation and test keeps them; any other is split by a hash of the
prompt text. A prompt text that occurs in several splits stays in the first of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from robustalign.config import DatasetConfig
from robustalign.data.prompts import Comparison, Prompt, Turn
from robustalign.data.sources import cells
from robustalign.data.splits import SPLITS, split_of, text_key
from robustalign.errors import ConfigError


def prompts(config: DatasetConfig, split: str) -> list[Prompt]:
    """The distinct prompts of a split, in the data's order.

    Raises:
        ConfigError: a prompt that cannot be read, with its row.
    """
    return list(dict.fromkeys(prompt for prompt, _ in _rows(config, split, [config.prompt_column])))


def comparisons(config: DatasetConfig, split: str) -> list[Comparison]:
    """The comparisons of a split.

    Raises:
        ConfigError: a prompt or a reply that cannot be read, with its row.
    """
    columns = [config.prompt_column, config.chosen_column, config.rejected_column]
    found = []
    for prompt, row in _rows(config, split, columns):
        chosen, rejected = (
            _read(cells.reply_turns, f"dataset.{key}", prompt.row, row[getattr(config, key)], prompt.turns)
            for key in ("chosen_column", "rejected_column")
        )
        found.append(Comparison(prompt, chosen, rejected, row=prompt.row))
    return found


def check(config: DatasetConfig) -> None:
    """Open the data and look at its columns and size.

    Raises:
        ConfigError: it cannot be loaded, a column is missing, or it is empty.
    """
    columns = [config.prompt_column]
    if config.source == "preferences":
        columns += [config.chosen_column, config.rejected_column]
    next(_rows(config, "train", columns), None)
    if not any(len(part) for part in _parts(_load(config)).values()):
        raise ConfigError("dataset.path", f"{config.path!r} is empty")


def _rows(config: DatasetConfig, split: str, columns: list[str]) -> Iterator[tuple[Prompt, dict[str, Any]]]:
    """The rows of a split, each with its prompt."""
    parts = _parts(_load(config))
    for column in columns:
        if column not in next(iter(parts.values())).column_names:
            names = ", ".join(next(iter(parts.values())).column_names)
            key = ("prompt_column", "chosen_column", "rejected_column")[columns.index(column)]
            raise ConfigError(f"dataset.{key}", f"{config.path!r} has no column {column!r}; it has: {names}")
    found = {part: _prompts(rows[columns[0]], part) for part, rows in parts.items()}
    owner: dict[str, str] = {}
    for name in SPLITS:
        for part, of_part in found.items():
            for text in (text_key(prompt.text) for prompt in of_part):
                if (part or split_of(text)) == name:
                    owner.setdefault(text, name)
    for part, rows in parts.items():
        for prompt, row in zip(found[part], rows, strict=True):
            text = text_key(prompt.text)
            if (part or split_of(text)) == split and owner[text] == split:
                yield prompt, row


def _prompts(column: Iterable[Any], part: str) -> list[Prompt]:
    names = (f"{part} row {number}".lstrip() for number in itertools.count())
    found = []
    for value, row in zip(column, names, strict=False):
        turns = _read(cells.prompt_turns, "dataset.prompt_column", row, value)
        found.append(Prompt(turns, row=row))
    return found


def _read(read: Callable[..., tuple[Turn, ...]], key: str, row: str, *cell: Any) -> tuple[Turn, ...]:
    try:
        return read(*cell)
    except ValueError as error:
        raise ConfigError(key, f"{row} (counted from 0): {error}") from error


def _parts(data: Dataset | DatasetDict) -> dict[str, Dataset]:
    """Named splits, or one unnamed part that is split by hash."""
    if isinstance(data, DatasetDict):
        if all(split in data for split in SPLITS):
            return {split: data[split] for split in SPLITS}
        return {"": data["train"] if "train" in data else next(iter(data.values()))}
    return {"": data}


def _load(config: DatasetConfig) -> Dataset | DatasetDict:
    assert config.path is not None
    try:
        if Path(config.path).is_dir():
            return load_from_disk(config.path)
        return load_dataset(config.path, revision=config.revision)
    except IndexError as error:
        raise ConfigError("dataset.path", f"{config.path!r} is empty") from error
    except Exception as error:
        raise ConfigError("dataset.path", f"cannot load {config.path!r}: {str(error).splitlines()[0]}") from error
