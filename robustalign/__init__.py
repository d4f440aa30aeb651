"""robustalign: how aligned language models behave when preferences shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustalign.report.load import runs

__version__ = "0.1.0"
__all__ = ["__version__", "runs"]


def __getattr__(name: str) -> Any:
    """``runs`` needs pandas and the tracking store: imported when it is asked for."""
    if name == "runs":
        from robustalign.report.load import runs

        return runs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
