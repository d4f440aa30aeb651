"""``robustalign train``: one run, or a sweep of many (``-m``). ``--help`` says more."""

from __future__ import annotations

import contextlib
import os
import re
import sys

import hydra
from omegaconf import DictConfig

from robustalign.cli.errors import one_line_errors
from robustalign.config import SweepConfig, config_dir, register
from robustalign.errors import ConfigError, choices
from robustalign.sweeps.fork_client import NurseryClient
from robustalign.sweeps.hydra import replaced

SHOWS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
SWEEPS = {"-m", "--multirun"}


def main() -> None:
    """Compose, check, run, import, report. The exit code is 0 only if every run finished."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors itself
    with contextlib.ExitStack() as stack, one_line_errors():
        words = replaced(word for word in sys.argv[1:] if word not in SWEEPS)
        check_choices(words)
        if not any(word.partition("=")[0] in SHOWS for word in words):
            train.single = not SWEEPS & set(sys.argv)  # type: ignore[attr-defined]
            sys.argv[1:] = [*words, "--multirun"]  # a single run is a sweep of one
            nursery = stack.enter_context(
                contextlib.closing(NurseryClient(_program(words)))
            )  # imports while Hydra composes
            train.nursery = nursery  # type: ignore[attr-defined]
        else:
            sys.argv[1:] = replaced(sys.argv[1:])
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(train)()


def check_choices(words: list[str]) -> None:
    """Refuse ``GROUP=null`` and similar words, for which Hydra raises a traceback.

    Raises:
        ConfigError: with the choices of the group.
    """
    groups = {folder.name: folder for folder in config_dir().iterdir() if folder.is_dir() and folder.name != "hydra"}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in groups and re.fullmatch(r"null|true|false|\[\s*\]|[\d.+-]*", value, re.IGNORECASE):
            options = choices(file.stem for file in groups[key].glob("*.yaml"))
            raise ConfigError(key, f"{value or 'nothing'} is no choice; choose one of: {options}")


def _program(words: list[str]) -> str:
    """The program that the command names, before Hydra has read it."""
    programs = [word.partition("=")[2] for word in words if word.startswith("sweep.program=")]
    return programs[-1] if programs else SweepConfig.program


def train(config: DictConfig) -> None:
    """Refuse Hydra's own launchers, which call this; ours run the composed configs (``robustalign.sweeps.hydra``).

    Raises:
        ConfigError: always.
    """
    raise ConfigError("hydra/launcher", "Hydra's own ways to run start nothing here; choose local or slurm")


if __name__ == "__main__":
    main()
