"""Commands as users type them, and configs as they compose them."""

from tests.pipeline.conftest import base, make
from tests.sweeps.shell import shell

__all__ = ["base", "make", "shell"]
