"""Names of metrics as MLflow keeps them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from robustalign.errors import ConfigError

LONGEST = 250  # of a metric's name
PART = 180  # of it, what is left for a name that the user chooses


def stored(name: str) -> str:
    """What MLflow keeps of a name: letters and digits of every alphabet, blanks and ``_ - . : /``; others are ``_``."""
    return re.sub(r"[^\w\-.:/ ]", "_", name)[:LONGEST]


def check_stored(key: str, names: Iterable[str]) -> None:
    """Refuse names, parts of metrics' names, that MLflow cannot tell apart or does not take.

    Raises:
        ConfigError: ``KEY.NAME``, and with which other name it collides.
    """
    original: dict[str, str] = {}
    for name in names:
        stored_name = stored(name)
        path = f"eval/{stored_name}/loss"
        if not name.strip() or len(name) > PART or posixpath.normpath(path) != path:
            problem = f"{name!r} cannot be part of a metric's name (empty, more than {PART} characters, or a path)"
            raise ConfigError(f"{key}.{name}", f"{problem}; choose another")
        if stored_name in original and original[stored_name] != name:
            other = f"{name!r} and {original[stored_name]!r} are both {stored_name!r} in MLflow"
            raise ConfigError(f"{key}.{name}", f"{other}, where one would be lost; choose another name")
        original[stored_name] = name
