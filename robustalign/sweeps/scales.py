"""Experiments that come in several sizes: ``experiment=NAME scale=paper`` is ``experiment=NAME/paper``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from robustalign.config import config_dir
from robustalign.errors import ConfigError, choices

SCALES = ("paper", "small", "smoke")  # the paper's own; real and offline; seconds
DEFAULT = "small"


def scaled(words: Iterable[str]) -> list[str]:
    """Override words with the experiment's file of the scale that ``scale=...`` names, ``small`` where none does.

    Raises:
        ConfigError: an unknown scale, or an experiment that has no such size.
    """
    every_word = list(words)
    scales = [word.partition("=")[2] for word in every_word if word.startswith("scale=")]
    scale = scales[-1] if scales else None
    if scale is not None and scale not in SCALES:
        raise ConfigError("scale", f"unknown value {scale!r}; choose one of: {choices(SCALES)}")
    others = [word for word in every_word if not word.startswith("scale=")]
    places = [i for i, word in enumerate(others) if word.startswith("experiment=")]
    name = others[places[-1]].partition("=")[2] if places else ""
    there = sizes(name)
    if scale is not None and scale not in there:
        every = choices(several())
        size = f"comes in {choices(there)}" if there else "has one size"
        what = f"the experiment {name} {size}" if name else "is of an experiment"
        raise ConfigError("scale", f"{what}; those that come in several are: {every}")
    if there:
        others[places[-1]] = f"experiment={name}/{scale or DEFAULT}"
    return others


def sizes(experiment: str) -> list[str]:
    """The scales that an experiment comes in; none where it has one size."""
    folder = _folder() / experiment
    return [scale for scale in SCALES if experiment and (folder / f"{scale}.yaml").is_file()]


def several() -> list[str]:
    """The experiments that come in several sizes."""
    return sorted(folder.name for folder in _folder().iterdir() if folder.is_dir())


def _folder() -> Path:
    return config_dir() / "experiment"
