"""The interface between running configs and the science that a run computes.

``robustalign.run`` and ``robustalign.sweeps`` start, watch and resume runs. A *program*, a module with the six
functions below, defines what a run computes. ``sweep.program`` names the module; only a run's own process imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.run.folder import RunFolder
from robustalign.run.journal import Journal

FUNCTIONS = ("check_config", "shared_key", "outlook", "inputs", "warm", "run")


class Program(Protocol):
    """What a run must offer."""

    def check_config(self, config: Config) -> list[str] | None:
        """Refuse a config that cannot run, before a model is loaded. Returns lines for the launch to print, if any.

        Raises:
            ConfigError: the key and the fix.
        """

    def shared_key(self, config: Config) -> str:
        """A text that is equal for configs which share all artefacts."""

    def outlook(self, config: Config) -> dict[str, Any]:
        """What a dry run shows: stages ``to_build``, training ``tokens`` (None: nobody can tell yet), and in words an
        ``estimate`` of the work (None, or absent, where there is none)."""

    def inputs(self, config: Config) -> dict[str, str]:
        """Fingerprints, by name, of what the config only names: data, model and code. It must be cheap, as it is called
        for every run at every launch."""

    def warm(self, config: Config) -> None:
        """Build the artefacts that runs of a sweep share."""

    def run(self, config: Config, folder: RunFolder, journal: Journal, should_stop: Callable[[], bool]) -> None:
        """From the config to its results, continuing where an earlier attempt was stopped.

        Raises:
            Stopped: ``should_stop()`` became true; a checkpoint was saved.
        """


def load(name: str) -> Program:
    """The program of that module.

    Raises:
        ConfigError: there is no such module, or it lacks one of the six functions.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise ConfigError("sweep.program", f"no module {name!r}") from error
    missing = [function for function in FUNCTIONS if not hasattr(module, function)]
    if missing:
        raise ConfigError("sweep.program", f"module {name!r} has no function {', '.join(missing)}")
    return cast(Program, module)
