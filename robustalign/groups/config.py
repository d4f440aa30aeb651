"""From the keys of ``groups`` to a grouping: its dataclass fields are the schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from robustalign.errors import ConfigError, choices
from robustalign.groups.grouping import Grouping
from robustalign.objectives.registry import discover

GROUPINGS = discover("robustalign.groups.methods", Grouping)  # type: ignore[type-abstract]
COMMON = ("method", "require_evidence")


def build_grouping(groups: Mapping[str, Any]) -> Grouping:
    """The grouping that a ``groups`` config describes.

    Raises:
        ConfigError: unknown method or key, or a value that it refuses.
    """
    name = str(groups.get("method"))
    if name not in GROUPINGS:
        raise ConfigError("groups.method", f"unknown value {name!r}; choose one of: {choices(GROUPINGS)}")
    cls = GROUPINGS[name]
    fields = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in groups:
        if key not in fields and key not in COMMON:
            raise ConfigError(f"groups.{key}", f"unknown key for {name}; known: {choices({*fields, *COMMON})}")
    for missing in sorted(_required(cls) - set(groups)):
        raise ConfigError(f"groups.{missing}", f"{name} needs it")
    if not isinstance(groups.get("require_evidence", False), bool):
        raise ConfigError("groups.require_evidence", f"{groups['require_evidence']!r} is not true or false")
    return explained(lambda: cls(**{key: groups[key] for key in fields if key in groups}))


def known_keys() -> list[str]:
    """Every key that some grouping has."""
    fields = (dataclasses.fields(cls) for cls in GROUPINGS.values())  # type: ignore[arg-type]
    return sorted({*COMMON, *(field.name for of_class in fields for field in of_class)})


def _required(cls: type[Grouping]) -> set[str]:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    return {field.name for field in fields if field.default is missing and field.default_factory is missing}


def explained(build: Callable[[], Any]) -> Any:
    """Call ``build``; a ValueError 'field: problem' becomes a ConfigError about ``groups.field``."""
    try:
        return build()
    except ValueError as error:
        field, colon, problem = str(error).partition(": ")
        raise ConfigError(f"groups.{field}" if colon else "groups", problem or str(error)) from error
