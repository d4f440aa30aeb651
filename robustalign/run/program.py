"""The one door between running a config and knowing what a config means.

``robustalign.run`` and ``robustalign.sweeps`` start, watch and resume runs; what a run does is said by a *program*, a
module with the six functions below. ``sweep.program`` names it, and only a run's own process imports it.
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
        """Refuse what cannot run, before a model is loaded; lines that a launch prints, if any.

        Raises:
            ConfigError: the key and the fix.
        """

    def shared_key(self, config: Config) -> str:
        """A text that is equal for configs which share all artefacts."""

    def outlook(self, config: Config) -> dict[str, Any]:
        """What a dry run shows: stages ``to_build`` and training ``tokens`` (None: nobody can tell yet)."""

    def inputs(self, config: Config) -> dict[str, str]:
        """What the run is computed from and the config only names: fingerprints of data, model and code, by what they
        are. Cheap: asked of every run at every launch."""

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
