"""One pass over the data: every row to comparisons, each with its split, and an account of what was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robustalign.config import DatasetConfig
from robustalign.data import formats, reshape
from robustalign.data.fields import as_text, compile_field
from robustalign.data.files import BadRow, LeftOut, Part, parts
from robustalign.data.formats.outcome import Dropped
from robustalign.data.named_splits import NamedSplits
from robustalign.data.prompts import Comparison, Turn, plain_text
from robustalign.data.splits import SPLITS, WHOLE, cut, hash_of, owners, placed, prompt_key
from robustalign.errors import ConfigError, choices

UNUSED = "split that is not used"


@dataclass
class Account:
    """The numbers of rows that were kept and dropped.

    ``splits``: split -> ``kept``, ``dropped`` by reason, and ``first``, the first row with that reason. ``unused``:
    splits of the data that are not read.
    """

    read: int = 0
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def reasons(self, split: str) -> str:
        """What was dropped of a split, as text."""
        facts = self.splits[split]
        return by_reason(facts["dropped"], facts["first"])


def by_reason(dropped: Mapping[str, int], first: Mapping[str, str]) -> str:
    """Counts by reason, each with the first row where that is known."""
    words = []
    for reason, count in dropped.items():
        where = f" (first: {first[reason]})" if reason in first else ""
        words.append(f"{count:,} {reason}{where}")
    return ", ".join(words)


def data_parts(config: DatasetConfig) -> list[Part]:
    """What ``dataset.path`` holds.

    Raises:
        ConfigError: there is nothing.
    """
    return parts(config.path, subset=config.subset, folder=config.data_dir, revision=config.revision)


def _holds(names: Sequence[str], path: str) -> bool:
    """Whether a path begins with one of the columns."""
    return any(path == name or path.startswith(f"{name}.") for name in names)


class Reading:
    """One pass over the data. ``bad(place, fault)``, if given, is called for each row that cannot be read."""

    def __init__(self, config: DatasetConfig, bad: Callable[[str, BadRow], None] | None = None) -> None:
        self.config, self.bad = config, bad
        self.parts = data_parts(config)
        self.format = formats.load("prompts" if config.source == "prompts" else config.format)
        self.fields = formats.fields("prompts" if config.source == "prompts" else config.format, config.fields)
        self.columns = {name: compile_field(spec, f"dataset.columns.{name}") for name, spec in config.columns.items()}
        self.side = reshape.join_parts(config)
        self.steps = reshape.steps(config, self.side)
        self.splits = NamedSplits(config, [part.split for part in self.parts])
        if config.split_by not in ("prompt", "replies", *config.columns):
            raise ConfigError(
                "dataset.split_by",
                f"{config.split_by!r} is not prompt, replies or a column ({choices(config.columns)})",
            )
        self._check_columns()
        self.read = 0
        self.first: dict[tuple[int, int, str], str] = {}
        self.dropped: Counter[tuple[int, int, str]] = Counter()  # split's code, code by the prompt's hash, reason
        self.codes: list[int] = []
        self.hashes: list[tuple[int, ...]] = []

    def _check_columns(self) -> None:
        """Refuse a field whose column is not there.

        Raises:
            ConfigError: with the columns that are.
        """
        fields = [*self.fields.all(), *self.columns.values(), *self.splits.fields, *reshape.fields(self.config)]
        derived = reshape.derived_columns(self.config) | {"reply", "other", "vote", "votes_of"}
        places = [(field, path, path.split(".")) for field in fields for path in field.paths]
        if self.config.gather and not any(head == "rows" for _, _, (head, *_) in places):
            raise ConfigError(
                "dataset.gather", "makes one row of several, but no field reads them; read them from rows"
            )
        for part in (part for part in self.parts if self.splits.uses(part.split)):
            names = part.columns()
            for column, path, (head, *_) in places if names else ():
                if head not in derived and not _holds(names, path):
                    raise ConfigError(column.key, f"{part.file} has no column {head!r}; it has: {', '.join(names)}")
        for name, side in self.side.items():
            names = [column for part in side for column in part.columns()]
            for column, _, (head, *rest) in places:
                if head == name and rest and not _holds(names, ".".join(rest)):
                    problem = f"the side table {name} has no column {rest[0]!r}; it has: {', '.join(names)}"
                    raise ConfigError(column.key, problem)

    def located(self) -> Iterator[tuple[str, Any]]:
        """Every row of every part that is used, with where it stands, after all steps."""

        def rows() -> Iterator[reshape.Located]:
            for part in self.parts:
                if not self.splits.uses(part.split):
                    continue
                name = f"{Path(part.file).name}{' ' + part.split if part.split and not part.files else ''}"
                for number, row in enumerate(part.read(), 1):
                    self.read += 1
                    where = f"{name} row {number}"
                    yield where, row if isinstance(row, BadRow) else {**row, "_file": part.file, "_split": part.split}

        stream: Iterator[reshape.Located] = rows()
        for step in self.steps:
            stream = step(stream)
        return stream

    def comparisons(self) -> Iterator[Comparison]:
        """Every comparison, as it will be written; what is dropped is counted.

        Raises:
            ConfigError: a row that cannot be read, unless ``dataset.bad_rows=drop``.
        """
        for where, row in self.located():
            code: int | None = WHOLE
            try:
                if isinstance(row, LeftOut):
                    self._drop(self.splits.code(row.row) or 0, (), row.problem, where)
                    continue
                if isinstance(row, BadRow):
                    raise row
                code = self.splits.code(row)
                if code is None:
                    self._drop(0, (), UNUSED, where)
                    continue
                for outcome, source in self.format.read(row, self.fields, self.config):
                    if isinstance(outcome, Dropped):
                        self._drop(code, outcome.prompt, outcome.reason, where)
                        continue
                    columns = {name: as_text(column(source)) for name, column in self.columns.items()}
                    _check_characters(outcome, columns)
                    self.codes.append(code)
                    self.hashes.append(self._hashes(outcome, columns))
                    yield replace(outcome, columns=columns, row=where)
            except BadRow as error:
                if self.bad is not None:
                    self.bad(where, error)
                elif self.config.bad_rows == "refuse":
                    fix = "mend it, or leave such rows out: dataset.bad_rows=drop"
                    raise ConfigError(error.key, f"{where} (counted from 1) {error.problem}; {fix}") from error
                reason = f"unreadable {error.key.removeprefix('dataset.').removeprefix('fields.')}"
                self._drop(code or 0, (), reason, f"{where} {error.problem}")

    def _hashes(self, outcome: Comparison, columns: Mapping[str, str]) -> tuple[int, ...]:
        by = self.config.split_by
        if by == "replies":
            return tuple(
                hash_of(" ".join(plain_text(reply).lower().split())) for reply in (outcome.chosen, outcome.rejected)
            )
        return (hash_of(prompt_key(outcome.prompt.turns) if by == "prompt" else columns[by]),)

    def _drop(self, code: int, prompt: Sequence[Turn], reason: str, where: str) -> None:
        by_hash = (
            int(cut(np.array([hash_of(prompt_key(prompt))], dtype=np.uint64), self.config.cut)[0]) if prompt else 0
        )
        self.dropped[code, by_hash, reason] += 1
        self.first.setdefault((code, by_hash, reason), where)

    def place(self) -> tuple[np.ndarray, Account]:
        """The split's code of every comparison written (-1: of none), and the account.

        Raises:
            ConfigError: there are no rows at all, or a split that ``dataset.splits`` names is not in the data.
        """
        if not self.read:
            raise ConfigError("dataset.path", f"{self.config.path} is empty")
        given = self.splits.given()
        empty = {name: {"kept": 0, "dropped": {}, "first": {}} for name in SPLITS}
        account = Account(self.read, empty, self.splits.unused())
        for (code, by_hash, reason), count in self.dropped.items():
            name = SPLITS[int(placed(np.array([code]), np.array([by_hash]), given)[0])]
            into = account.splits[name]["dropped"]
            into[reason] = into.get(reason, 0) + count
            account.splits[name]["first"].setdefault(reason, self.first[code, by_hash, reason])
        codes = np.array(self.codes, dtype=np.int8)
        keys = np.array(self.hashes or np.empty((0, 1)), dtype=np.uint64)
        split = self._assign(codes, keys, given, account)
        for code, name in enumerate(SPLITS):
            account.splits[name]["kept"] = int((split == code).sum())
        return split, account

    def _assign(self, codes: np.ndarray, keys: np.ndarray, given: set[int], account: Account) -> np.ndarray:
        """The split of each row; rows whose key occurs in an earlier split are dropped and counted."""
        if not len(codes):
            return codes
        sides = np.stack([placed(codes, cut(column, self.config.cut), given) for column in keys.T])
        flat = owners(sides.T.ravel(), keys.ravel()).reshape(keys.shape).T
        split = np.where((sides == sides[0]).all(0), sides[0], -1)
        crossing = int((split == -1).sum())
        if crossing:
            account.splits["train"]["dropped"]["replies of two splits"] = crossing
        astray = (split >= 0) & (flat.min(0) != split)
        what = self.config.split_by if self.config.split_by != "replies" else "reply"
        for code, owner in {(int(a), int(b)) for a, b in zip(split[astray], flat.min(0)[astray], strict=True)}:
            count = int((astray & (split == code) & (flat.min(0) == owner)).sum())
            account.splits[SPLITS[code]]["dropped"][f"{what} also in the {SPLITS[owner]} split"] = count
        return np.where(astray, -1, split).astype(np.int8)


def _check_characters(outcome: Comparison, columns: Mapping[str, str]) -> None:
    """Refuse text that no file can hold.

    Raises:
        BadRow: half of a pair of surrogates, which JSON can spell and which is no character.
    """
    for turn in (*outcome.prompt.turns, *outcome.chosen, *outcome.rejected):
        try:
            f"{turn.role}{turn.content}".encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.start + 1]
            raise BadRow("dataset.path", f"holds {half!r}, half of a character, in {turn.content[:40]!r}") from None
    for name, value in columns.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(f"dataset.columns.{name}", f"holds half of a character in {value[:40]!r}") from None
