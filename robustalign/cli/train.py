"""``robustalign-train``: one run, or a sweep of many (``-m``). ``--help`` says more."""

from __future__ import annotations

import contextlib
import os
import sys

import hydra
from omegaconf import DictConfig

from robustalign.cli.errors import one_line_errors
from robustalign.config import SweepConfig, config_dir, register
from robustalign.sweeps.fork_client import NurseryClient

SHOWS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}
SWEEPS = {"-m", "--multirun"}


def main() -> None:
    """Compose, check, run, import, report. The exit code is 0 only if every run finished."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed
    words = [word for word in sys.argv[1:] if word not in SWEEPS]
    with contextlib.ExitStack() as stack, one_line_errors():
        if not any(word.partition("=")[0] in SHOWS for word in words):
            train.single = len(words) == len(sys.argv) - 1  # type: ignore[attr-defined]
            sys.argv[1:] = [*words, "--multirun"]  # a single run is a sweep of one
            nursery = stack.enter_context(
                contextlib.closing(NurseryClient(_program(words)))
            )  # imports while Hydra composes
            train.nursery = nursery  # type: ignore[attr-defined]
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")(train)()


def _program(words: list[str]) -> str:
    """The program that the command names, before Hydra has read it."""
    named = [word.partition("=")[2] for word in words if word.startswith("sweep.program=")]
    return named[-1] if named else SweepConfig.program


def train(config: DictConfig) -> None:
    """Never called: the launcher runs the composed configs (``robustalign.sweeps.hydra``)."""
    raise AssertionError("hydra/launcher must be one of robustalign's")


if __name__ == "__main__":
    main()
