"""Reward objectives: what some person may want of a reply.

A scorer is a module of this package (or any importable module, by its dotted name) with

    def build(assets: Path, **options) -> Scorer

and an objective is a name in ``conf/reward/*.yaml`` with ``scorer:`` and its options. ``assets`` is a
folder the scorer may have prepared once (``prepare(target: Path)``), shared by all runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np

from robustalign.bounds import Interval, OneOf, argument_problems
from robustalign.errors import ConfigError

Size = Annotated[int, Interval("[1, inf)")]
Device = Annotated[str, OneOf(("cpu", "cuda"))]


@dataclass(frozen=True)
class Scorer:
    """``score(prompts, replies) -> float64 [N]``, higher is better; ``unit``: values lie in [0, 1]."""

    score: Callable[[Sequence[str], Sequence[str]], np.ndarray]
    unit: bool = False


def scorer_module(objective: str, spec: Mapping[str, Any]) -> ModuleType:
    """The module that scores an objective.

    Raises:
        ConfigError: there is no such module, or it builds no scorer.
    """
    name = str(spec.get("scorer", ""))
    if not name:
        raise ConfigError(f"reward.{objective}.scorer", "is missing; name a module of robustalign.rewards")
    path = name if "." in name else f"robustalign.rewards.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or name
        fix = (
            "no such module"
            if path.startswith(missing)
            else f"needs the package {missing}: pip install robustalign[data]"
        )
        raise ConfigError(f"reward.{objective}.scorer", f"{name!r}: {fix}") from error
    if not hasattr(module, "build"):
        raise ConfigError(f"reward.{objective}.scorer", f"module {path} has no function build(assets, **options)")
    return module


def check_options(objective: str, spec: Mapping[str, Any]) -> None:
    """Refuse options that the scorer's ``build`` does not take, lacks, or takes in another type or range.

    Raises:
        ConfigError: the option and the fix.
    """
    options = {key: value for key, value in spec.items() if key != "scorer"}
    for key, problem in argument_problems(scorer_module(objective, spec).build, options, "assets"):
        raise ConfigError(f"reward.{objective}.{key}", problem)


def build_scorer(objective: str, spec: Mapping[str, Any], assets: Path) -> Scorer:
    """The scorer of one objective.

    Raises:
        ConfigError: an option that the scorer does not know, or a value it refuses.
    """
    check_options(objective, spec)
    options = {key: value for key, value in spec.items() if key != "scorer"}
    try:
        return scorer_module(objective, spec).build(assets, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"reward.{objective}", str(error)) from error


def score_all(
    rewards: Mapping[str, Mapping[str, Any]],
    assets: Callable[[str, ModuleType], Path],
    prompts: Sequence[str],
    replies: Sequence[str],
) -> dict[str, np.ndarray]:
    """Raw scores ``{objective: float64 [N]}`` of ``N`` replies, each to the prompt beside it."""
    scores = {}
    for objective, spec in rewards.items():
        scorer = build_scorer(objective, spec, assets(spec["scorer"], scorer_module(objective, spec)))
        scores[objective] = checked(objective, scorer, prompts, replies)
    return scores


def checked(objective: str, scorer: Scorer, prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
    """What a scorer says of ``N`` replies, float64 ``[N]``.

    Raises:
        ConfigError: another number of scores, or scores that are not finite, with the first such reply.
    """
    try:
        values = np.asarray(scorer.score(prompts, replies), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"reward.{objective}", str(error)) from error
    if values.shape != (len(replies),):
        raise ConfigError(f"reward.{objective}", f"gave scores of shape {values.shape} for {len(replies)} replies")
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        first = replies[int(broken[0])]
        raise ConfigError(f"reward.{objective}", f"gave {values[broken[0]]} for {len(broken)} replies, first {first!r}")
    return values
