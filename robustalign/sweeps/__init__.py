"""Many runs: planning, launching, watching and cancelling sweeps.

``robustalign.sweeps`` offers what ``robustalign.sweeps.api`` does; it is imported when it is asked for, since Hydra
imports this package at every start.
"""

from __future__ import annotations

from typing import Any

__all__ = ["cancel", "find", "log", "look", "retry", "rows", "status", "submit", "sweeps", "wait"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from robustalign.sweeps import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
