"""A program in which ranks do nothing but wait for each other, and one of them may raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.run.folder import RunFolder
from robustalign.run.journal import Journal
from robustalign.training import distributed


def run(config: Config, folder: RunFolder, journal: Journal, should_stop: Callable[[], bool]) -> None:
    for step in range(1, config.trainer.max_steps + 1):
        journal.metrics(step, {"train/loss": float(step)})
        if distributed.rank() == config.method.get("raise_rank") and step == 3:
            raise ConfigError("method.radius", "is odd") if config.method.get("config") else ValueError("it is\nodd")
        distributed.barrier()


def check_config(config: Config) -> None:
    """Everything can run."""


def shared_key(config: Config) -> str:
    return ""


def inputs(config: Config) -> dict[str, str]:
    return {}


def outlook(config: Config) -> dict[str, Any]:
    return {"to_build": [], "tokens": None}


def warm(config: Config) -> None:
    """Nothing is shared."""
