"""Data sets from a hub or a local ``save_to_disk`` folder: prompts, or prompts with two replies.

A data set with splits named train, validation and test keeps them; any other is split by a hash of the
prompt text. A prompt text that occurs in several splits stays in the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from robustalign.config import DatasetConfig
from robustalign.data.prompts import Comparison, Prompt
from robustalign.data.splits import SPLITS, split_of, text_key
from robustalign.errors import ConfigError


def prompts(config: DatasetConfig, split: str) -> list[Prompt]:
    """The distinct prompts of a split, in the data's order."""
    rows = _rows(config, split, [config.prompt_column])
    return list(dict.fromkeys(Prompt(_turns(row[config.prompt_column])) for row in rows))


def comparisons(config: DatasetConfig, split: str) -> list[Comparison]:
    """The comparisons of a split; a reply that repeats its prompt first is cut to what follows it."""
    columns = [config.prompt_column, config.chosen_column, config.rejected_column]
    found = []
    for row in _rows(config, split, columns):
        turns = _turns(row[config.prompt_column])
        chosen, rejected = (_reply(row[column], turns[-1]) for column in columns[1:])
        found.append(Comparison(Prompt(turns), chosen, rejected))
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


def _rows(config: DatasetConfig, split: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    data = _load(config)
    parts = _parts(data)
    for column in columns:
        if column not in next(iter(parts.values())).column_names:
            names = ", ".join(next(iter(parts.values())).column_names)
            key = ("prompt_column", "chosen_column", "rejected_column")[columns.index(column)]
            raise ConfigError(f"dataset.{key}", f"{config.path!r} has no column {column!r}; it has: {names}")
    owner: dict[str, str] = {}
    for name in SPLITS:
        for part, rows in parts.items():
            for text in (_turns(turns)[-1] for turns in rows[columns[0]]):
                if (part or split_of(text_key(text))) == name:
                    owner.setdefault(text_key(text), name)
    for part, rows in parts.items():
        for row in rows:
            text = text_key(_turns(row[columns[0]])[-1])
            if (part or split_of(text)) == split and owner[text] == split:
                yield row


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


def _turns(value: Any) -> tuple[str, ...]:
    """A prompt column's value, text or chat messages, as turns that end with the user's."""
    if isinstance(value, str):
        return (value,)
    return tuple(message["content"] for message in value if message["role"] != "system")


def _reply(value: Any, prompt: str) -> str:
    text = value if isinstance(value, str) else value[-1]["content"]
    return text.removeprefix(prompt).strip() if text != prompt else text
