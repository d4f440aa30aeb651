"""robustalign: how aligned language models behave when preferences shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustalign.report.load import runs
    from robustalign.sweeps import api as sweeps

__version__ = "0.1.0"
__all__ = ["__version__", "runs", "sweeps"]


def __getattr__(name: str) -> Any:
    """What needs more than this package's name is imported when it is asked for."""
    if name == "runs":
        from robustalign.report.load import runs

        return runs
    if name == "sweeps":
        from robustalign.sweeps import api

        return api
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
