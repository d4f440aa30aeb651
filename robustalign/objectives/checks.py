"""Checks of arguments; every message starts with the field's name and says what to do."""

from __future__ import annotations

import math
from collections.abc import Collection


def at_least_zero(name: str, value: float, advice: str) -> None:
    """Refuse anything but a finite number >= 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: {value} must be finite and >= 0; {advice}")


def one_of(name: str, value: str, allowed: Collection[str]) -> None:
    """Refuse a word that is not among the allowed ones."""
    if value not in allowed:
        raise ValueError(f"{name}: unknown value {value!r}; choose one of {', '.join(sorted(allowed))}")
