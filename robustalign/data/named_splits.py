"""The data's own splits as train, validation and test: by their names, or by a column that holds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from robustalign.config import DatasetConfig
from robustalign.data.fields import Field, as_text, compile_field
from robustalign.data.splits import SPLITS, WHOLE
from robustalign.errors import ConfigError, choices

ALIASES = {"val": "validation", "valid": "validation", "dev": "validation"}


class NamedSplits:
    """The split of a row (train, validation or test), from the data's own names.

    Raises:
        ConfigError: the names do not say which split is which, and ``dataset.splits`` does not either.
    """

    def __init__(self, config: DatasetConfig, names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys(names))
        by_split = dict(config.splits)
        self.column: Field | None = None
        if "column" in by_split:
            self.column = compile_field(by_split.pop("column"), "dataset.splits.column")
        for split in by_split:
            if split not in SPLITS:
                raise ConfigError(f"dataset.splits.{split}", f"unknown key; there are: {choices((*SPLITS, 'column'))}")
        self.explicit = bool(by_split)
        self.codes: dict[str, int] = {}
        for split, names in by_split.items():
            for name in names if isinstance(names, list) else [names]:
                self.codes[str(name)] = SPLITS.index(split)
        if self.column is None and self.names == [""] and "train" in self.codes:
            self.codes = {"": self.codes["train"]}  # a file alone is what a hub would call train
        if self.explicit and 0 not in self.codes.values():
            raise ConfigError("dataset.splits.train", "is missing; name the data's split to train on")
        if not self.explicit:
            self.codes = self._guessed()
        elif self.column is None:
            self._check(self.names)
        self.seen: Counter[str] = Counter()

    def _guessed(self) -> dict[str, int]:
        names = {name: SPLITS.index(split) for name in self.names if (split := ALIASES.get(name, name)) in SPLITS}
        if self.column is not None:
            return {
                name: SPLITS.index(split)
                for name, split in {**dict(zip(SPLITS, SPLITS, strict=True)), **ALIASES}.items()
            }
        if len(self.names) == 1:
            return {self.names[0]: WHOLE}
        if 0 not in names.values():
            listing = ", ".join(name or "without a name" for name in self.names)
            raise ConfigError(
                "dataset.splits",
                f"the data have the splits {listing}; say which is which: dataset.splits={{train: [...], test: [...]}}",
            )
        return names

    def _check(self, there: Sequence[str]) -> None:
        """Refuse ``dataset.splits`` if none of the names for one of the splits exists in the data."""
        for code in sorted(set(self.codes.values())):
            names = [name for name, of in self.codes.items() if of == code]
            if not set(names) & set(there):
                listing = choices(name or "one without a name" for name in there)
                problem = f"the data have no split {' or '.join(map(repr, names))}; they have: {listing}"
                raise ConfigError(f"dataset.splits.{SPLITS[code]}", problem)

    @property
    def fields(self) -> list[Field]:
        return [self.column] if self.column else []

    def uses(self, name: str) -> bool:
        """Whether rows of a part of that name are read."""
        return self.column is not None or name in self.codes

    def code(self, row: Mapping[str, Any]) -> int | None:
        """The code of a row's split; None where it belongs to none."""
        name = as_text(self.column(row)) if self.column else row["_split"]
        self.seen[name] += 1
        return self.codes.get(name)

    def given(self) -> set[int]:
        """The codes of the splits that the data have.

        Raises:
            ConfigError: ``dataset.splits`` names a value that no row holds.
        """
        if self.explicit and self.column is not None:
            self._check(list(self.seen))
        return {code for name, code in self.codes.items() if name in self.seen or self.column is None} - {WHOLE}

    def unused(self) -> list[str]:
        """The data's names that belong to none of the splits."""
        there = set(self.seen) if self.column is not None else {*self.names, *self.seen}
        return [name or "one without a name" for name in sorted(there - set(self.codes))]
