"""Configs as the command line composes them."""

from tests.pipeline.conftest import base, make

__all__ = ["base", "make"]
