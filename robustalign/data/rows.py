"""From files to comparisons in splits: one memory-mapped table, and an account of rows read, kept and dropped.

Rows are read, reshaped, turned into comparisons by the format, and written batch by batch. Memory holds one number for
each row, which decides its split. The table depends on the data's content and the reading keys of ``dataset`` alone: on
no tokenizer, no model and no limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from robustalign.cache import ArtefactCache
from robustalign.config import CutConfig, DatasetConfig
from robustalign.data import reshape
from robustalign.data.files import content
from robustalign.data.prompts import Comparison, Turn, messages
from robustalign.data.reading import Account, Reading, data_parts
from robustalign.data.splits import SPLITS

COLUMN = "column."  # before the name of a carried column in a table
BATCH = 1000  # comparisons that are written at once
READING = (
    *("source", "format", "fields", "splits", "split_by", "columns", "join", "where", "thread", "turns", "gather"),
    *("votes", "ties", "bad_rows"),
)
_TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


@dataclass(frozen=True)
class Rows:
    """Comparisons of all splits. ``table`` columns: prompt, chosen, rejected (turns), soft_label (NaN: none), weight,
    row, ``column.NAME``; ``index``: split -> rows of the table."""

    table: Dataset
    index: Mapping[str, np.ndarray]
    account: Account


def key(config: DatasetConfig) -> dict[str, Any]:
    """What the table depends on: the content of every file, and how it is read."""
    parts = data_parts(config)
    side = {name: content(table) for name, table in reshape.join_parts(config).items()}
    facts: dict[str, Any] = {"version": 2, "content": content(parts), "side": side}
    facts |= {name: getattr(config, name) for name in READING}
    if config.cut != CutConfig():  # tables that were made at the default keep their key
        facts["cut"] = asdict(config.cut)
    if "_file" in json.dumps(facts, default=str):  # a column that is read from where a file stands
        facts["files"] = [part.file for part in parts]
    if config.format == "scores":
        facts |= {"pairs": asdict(replace(config.pairs, limit=None)), "seed": config.seed}
    return facts


def rows(config: DatasetConfig, cache: ArtefactCache) -> Rows:
    """The comparisons of a data set, read once for all runs.

    Raises:
        ConfigError: the data cannot be read as the config says.
    """
    folder = cache.get("rows", key(config), lambda target: build(config, target))
    split = np.load(folder / "split.npy")
    index = {name: np.flatnonzero(split == code) for code, name in enumerate(SPLITS)}
    return Rows(
        Dataset.from_file(str(folder / "rows.arrow")),
        index,
        Account(**json.loads((folder / "account.json").read_text())),
    )


def build(config: DatasetConfig, target: Path) -> None:
    """Write the table of :func:`rows` into a folder.

    Raises:
        ConfigError: the data cannot be read as the config says, or hold nothing.
    """
    reading = Reading(config)
    with Writer(target / "rows.arrow", list(config.columns)) as writer:
        for comparison in reading.comparisons():
            writer.add(comparison)
    split, account = reading.place()
    np.save(target / "split.npy", split)
    (target / "account.json").write_text(json.dumps(asdict(account), indent=1) + "\n")


class Writer:
    """Comparisons to an arrow file, a batch at a time."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        texts = [(f"{COLUMN}{name}", pa.string()) for name in columns]
        turns = [(name, _TURNS) for name in ("prompt", "chosen", "rejected")]
        self.schema = pa.schema(
            [*turns, ("soft_label", pa.float64()), ("weight", pa.float64()), ("row", pa.string()), *texts]
        )
        self.file = file
        self.batch: list[dict[str, Any]] = []

    def __enter__(self) -> Writer:
        self.sink = pa.OSFile(str(self.file), "wb")
        self.stream = pa.ipc.new_stream(self.sink, self.schema)
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()
        self.stream.close()
        self.sink.close()

    def add(self, comparison: Comparison) -> None:
        """One comparison."""
        record = {
            "prompt": messages(comparison.prompt.turns),
            "chosen": messages(comparison.chosen),
            "rejected": messages(comparison.rejected),
            "soft_label": float("nan") if comparison.soft_label is None else comparison.soft_label,
            "weight": comparison.weight,
            "row": comparison.row,
        }
        self.batch.append(record | {f"{COLUMN}{name}": value for name, value in comparison.columns.items()})
        if len(self.batch) == BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if self.batch:
            self.stream.write_batch(pa.RecordBatch.from_pylist(self.batch, schema=self.schema))
            self.batch = []


def turns(cells: Sequence[Mapping[str, str]]) -> tuple[Turn, ...]:
    """A cell of the table as turns."""
    return tuple(Turn(one["role"], one["content"]) for one in cells)
