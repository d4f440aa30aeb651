"""Commands as users type them."""

from tests.sweeps.shell import shell

__all__ = ["shell"]
