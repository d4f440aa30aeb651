"""Labelled texts from files: what a reward model is trained on."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from robustalign.errors import ConfigError, choices
from robustalign.rewards.training import PAIRS, SINGLE, Examples

SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class LabelledFiles:
    """Three files, and which of their columns mean what; the keys are the options of ``robustalign reward``."""

    train: Path
    validation: Path
    test: Path
    kind: str
    text: str = "text"
    other: str = "other"  # pairs: the worse text
    labels: str = "labels"
    separator: str = ","
    names: Path | None = None  # label names by line, where cells hold numbers from 0
    header: str | None = None  # column names of a table without a first line
    groups: Mapping[str, set[str]] = field(default_factory=dict)  # a label that is any of these

    def examples(self) -> tuple[list[str], dict[str, Examples]]:
        """Label names, and the examples of each split.

        Raises:
            ConfigError: a file or a column that is not there, a label that has no name, or a text that is none.
        """
        files = {"train": self.train, "validation": self.validation, "test": self.test}
        frames = {split: frame(path, self.header, f"--{split}") for split, path in files.items()}
        texts = {split: column(table, self.text, split, "--text") for split, table in frames.items()}
        if self.kind == PAIRS:
            others = {split: column(table, self.other, split, "--other") for split, table in frames.items()}
            return [], {split: Examples(texts[split], others=others[split]) for split in files}
        cells = {split: column(table, self.labels, split, "--labels") for split, table in frames.items()}
        sets = {split: self._label_sets(cells[split]) for split in files}
        names = list(self.groups) or sorted({label for rows in sets.values() for row in rows for label in row})
        members = {name: self.groups.get(name, {name}) for name in names}
        return names, {split: Examples(texts[split], self._targets(sets[split], members, split)) for split in files}

    def _targets(self, rows: Sequence[set[str]], members: Mapping[str, set[str]], split: str) -> np.ndarray:
        """0 and 1 of every label ``[N, L]``, or the number of the only one ``[N]``."""
        marks = np.array([[float(bool(row & names_of_group)) for names_of_group in members.values()] for row in rows])
        if self.kind != SINGLE:
            return marks
        odd = np.flatnonzero(marks.sum(1) != 1)
        if len(odd):
            problem = f"row {odd[0] + 1} of {split} has {int(marks[odd[0]].sum())} labels, single_label needs one"
            raise ConfigError("--kind", problem)
        return marks.argmax(1)

    def _label_sets(self, cells: Sequence[Any]) -> list[set[str]]:
        rows = [list(map(str, c)) if isinstance(c, list) else str(c).split(self.separator) for c in cells]
        rows = [[label.strip() for label in row if label.strip()] for row in rows]
        if self.names is None:
            return [set(row) for row in rows]
        try:
            vocabulary = self.names.read_text(encoding="utf-8").split()
            return [{vocabulary[int(label)] for label in row} for row in rows]
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError("--names", f"cannot name a label: {error}") from error


def frame(path: Path, header: str | None, key: str) -> pd.DataFrame:
    """A file as a frame.

    Raises:
        ConfigError: there is none, its kind is unknown, or it has no rows.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    try:
        if suffix in SEPARATORS:
            names: dict[str, Any] = {"names": header.split(","), "header": None} if header else {}
            quoting: Any = csv.QUOTE_NONE if suffix == ".tsv" else csv.QUOTE_MINIMAL
            table = pd.read_csv(
                path, sep=SEPARATORS[suffix], dtype=str, keep_default_na=False, quoting=quoting, **names
            )
        elif suffix in (".jsonl", ".parquet"):
            table = pd.read_json(path, lines=True) if suffix == ".jsonl" else pd.read_parquet(path)
        else:
            raise ConfigError(key, f"{path} is no .csv, .tsv, .jsonl or .parquet")
    except (OSError, ValueError) as error:
        raise ConfigError(key, f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if table.empty:
        raise ConfigError(key, f"{path} has no rows")
    return table


def column(table: pd.DataFrame, name: str, split: str, key: str) -> list[Any]:
    """A column's cells: texts, or lists of labels.

    Raises:
        ConfigError: there is none, or a cell is neither.
    """
    if name not in table:
        raise ConfigError(key, f"the {split} file has no column {name!r}; it has: {choices(map(str, table.columns))}")
    cells = table[name].tolist()
    cells = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells]
    for row, cell in enumerate(cells):
        if not isinstance(cell, str | list) or (key != "--labels" and not cell):
            raise ConfigError(key, f"row {row + 1} of the {split} file has {cell!r} as {name!r}, which is no text")
    return cells
