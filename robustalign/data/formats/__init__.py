"""Formats: what rows of people's comparisons look like. One module each, with

``REQUIRED``, ``OPTIONAL``     the names of ``dataset.fields`` that it reads,
``prepare(fields)``           (where it has any) compiles those that are more than a value, and
``read(row, fields, config)`` is a function from a row to what it holds: comparisons, or reasons why there is none, each
                              with the row that columns are read from.

``dataset.format`` names the module.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

from robustalign.config import DatasetConfig
from robustalign.data.fields import Field, compile_field
from robustalign.data.files import BadRow, Row
from robustalign.data.formats.outcome import Outcome
from robustalign.errors import ConfigError, choices

FORMATS = ("pairs", "dialogues", "choice", "scores", "votes")
DEFAULTS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}


class Format(Protocol):
    """What the module of a format offers."""

    REQUIRED: tuple[str, ...]
    OPTIONAL: tuple[str, ...]

    def read(self, row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
        """What a row holds.

        Raises:
            BadRow: it cannot be read as the config says.
        """


class Fields(dict[str, Any]):
    """``dataset.fields``, compiled where a format reads a plain value; as written elsewhere."""

    def value(self, name: str, row: Row) -> Any:
        """The value of a field that has to be there.

        Raises:
            BadRow: it holds nothing.
        """
        field = self[name]
        value = field(row)
        if value is None:
            raise BadRow(field.key, f"is empty: {' and '.join(field.paths)} holds nothing")
        return value

    def all(self) -> list[Field]:
        """Every compiled field."""
        return [field for value in self.values() for field in _fields_in(value)]


def _fields_in(value: Any) -> Iterator[Field]:
    if isinstance(value, Field):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _fields_in(inner)
    else:
        yield from getattr(value, "fields", ())


def load(name: str) -> Format:
    """The format of that name (``prompts`` for data without replies).

    Raises:
        ConfigError: there is none.
    """
    if name not in (*FORMATS, "prompts"):
        raise ConfigError("dataset.format", f"unknown value {name!r}; choose one of: {choices(FORMATS)}")
    return cast(Format, importlib.import_module(f"robustalign.data.formats.{name}"))


def fields(name: str, specs: Mapping[str, Any]) -> Fields:
    """The fields that a format reads, those not given by their own names where data sets agree on them.

    Raises:
        ConfigError: an unknown field, or one is missing.
    """
    module = load(name)
    names = (*module.REQUIRED, *module.OPTIONAL)
    for field in specs:
        if field not in names:
            raise ConfigError(
                f"dataset.fields.{field}", f"the format {name} has no such field; it has: {choices(names)}"
            )
    values = {field: specs.get(field, DEFAULTS.get(field) if field in module.REQUIRED else None) for field in names}
    for field in module.REQUIRED:
        if values[field] is None:
            raise ConfigError(f"dataset.fields.{field}", f"is missing; the format {name} needs it")
    special = getattr(module, "SPECIAL", ())
    by_field = Fields()
    for field, spec in values.items():
        if spec is not None:
            by_field[field] = spec if field in special else compile_field(spec, f"dataset.fields.{field}")
    if special:
        module.prepare(by_field)  # type: ignore[attr-defined]
    return by_field
