"""From the flat keys of ``method`` to a pair loss and an ambiguity set.

The fields of the two dataclasses are the schema: a key belongs to the loss or the set that has a field
of its name, and to nobody else. So a new loss or set is one file under ``robustalign/objectives`` and one
yaml under ``conf/method``.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from robustalign.bounds import describe, fits, number, problems, word
from robustalign.errors import ConfigError, choices
from robustalign.objectives import LOSSES, SETS, AmbiguitySet, PairLoss
from robustalign.objectives.terms import COLUMNS

COMMON = ("name", "loss", "set", "scope", "oracle", "own_pairs", "target", "mass", "delay", "regret", "policy")
SCOPES = ("batch", "microbatch", "stream")


@dataclass(frozen=True)
class Objective:
    """A method: ``loss`` x ``set``, and over which pairs the set looks at once.

    ``scope``: batch (the whole optimiser batch, over micro-batches and ranks), microbatch (each forward by
    itself, as the paper's code does) or stream (batch, with the dual carried from step to step).
    ``oracle``: train with knowledge of the population ``target``; ``own_pairs``: on pairs that it labelled itself, not
    on the nominal population's by weights.
    ``policy``: a policy that is measured as it is; nothing is trained.
    ``mass``: importance weights give the last of the groups so much of the total weight, from step ``delay`` on.
    ``regret``: the set gets the loss that a run for each group alone attains.
    """

    name: str  # what tables call it
    loss: PairLoss  # the name of a pair loss: see below
    set: AmbiguitySet  # the name of an ambiguity set: see below
    scope: str = word("batch", SCOPES)  # batch (of the optimiser) | microbatch | stream (carries its dual over steps)
    oracle: bool = False  # trains with knowledge of the population it is tested on
    own_pairs: bool = False  # oracle: on pairs which that population labelled, not on the nominal one's by weights
    target: str | None = None  # oracle: the name of that population; null: the one farthest from the nominal
    policy: str | None = None  # audit: a folder of save_pretrained or of adapters, run:IDENTITY or a hub id
    mass: float | None = number(None, "(0, 1)")  # of the total weight that the last group of pairs gets; null: its own
    delay: float = number(0.0, "[0, inf)")  # optimiser steps before mass holds; below 1 a share of all steps
    regret: bool = False  # compares groups by the loss beyond what a run for each alone attains

    @property
    def beta(self) -> float:
        """The scale of implicit rewards: beta h is how much better the policy finds chosen than rejected."""
        return float(getattr(self.loss, "beta", 1.0))

    @property
    def needs(self) -> frozenset[str]:
        return self.loss.needs | self.set.needs

    def mass_from(self, steps: int) -> int:
        """The optimiser step of ``steps`` from which ``mass`` holds.

        Raises:
            ConfigError: it never would.
        """
        first = round(self.delay * steps) if self.delay < 1 else int(self.delay)
        if self.mass is not None and first >= steps:
            problem = f"{self.delay:g} of {steps} steps leave none for method.mass; give a share of them, as 0.4"
            raise ConfigError("method.delay", problem)
        return first


def build_objective(method: Mapping[str, Any], batch_size: int | None = None) -> Objective:
    """The objective a ``method`` config describes.

    ``batch_size``: pairs whose worst case is taken together; radii that put all mass on one of them are refused.

    Raises:
        ConfigError: unknown loss, set or key, or a value that they refuse.
    """
    loss_class = _known("method.loss", method.get("loss"), LOSSES)
    set_class = _known("method.set", method.get("set"), SETS)
    scope = method.get("scope", "batch")
    loss_keys, set_keys = _fields(loss_class), _fields(set_class)
    _check_unknown(method, loss_keys, set_keys)
    options = {key: value for key, value in method.items() if key in set_keys}
    if scope == "stream":
        if "streaming" not in set_keys:
            raise ConfigError("method.scope", f"the set {set_class.name} has no dual to carry from step to step")
        options["streaming"] = True
    loss = _construct(loss_class, {key: value for key, value in method.items() if key in loss_keys})
    ambiguity = _construct(set_class, options)
    for need in sorted((loss.needs | ambiguity.needs) - COLUMNS):
        raise ConfigError("method.loss", f"{method['loss']} x {method['set']} needs {need!r}, which no stage provides")
    if batch_size is not None and scope != "stream":
        _explained(lambda: ambiguity.check(batch_size))
    objective = Objective(
        name=method.get("name", ""),
        loss=loss,
        set=ambiguity,
        scope=scope,
        oracle=method.get("oracle", False),
        own_pairs=method.get("own_pairs", False),
        target=method.get("target"),
        policy=method.get("policy"),
        mass=method.get("mass"),
        delay=method.get("delay", 0.0),
        regret=method.get("regret", False),
    )
    for key, problem in (*problems(objective, "method."), *_group_problems(objective)):
        raise ConfigError(key, problem)
    return objective


def known_keys() -> list[str]:
    """Every key that some method has."""
    return sorted({*COMMON, *(key for kind in (*LOSSES.values(), *SETS.values()) for key in _fields(kind))})


def _group_problems(objective: Objective) -> Iterator[tuple[str, str]]:
    """Contradictions among the keys of a method that concern groups of pairs."""
    if objective.mass is not None and objective.oracle:
        yield "method.mass", "the oracle has weights of its own; leave out mass or oracle"
    if objective.delay and objective.mass is None:
        yield "method.delay", f"{objective.delay:g} steps need method.mass"
    if objective.delay > 1 and objective.delay != int(objective.delay):
        yield "method.delay", f"{objective.delay:g} is neither a number of steps nor a share below 1"
    if objective.regret and not hasattr(objective.set, "attainable"):
        yield "method.regret", f"the set {objective.set.name} compares no groups; use set: group"


def _known(key: str, name: Any, registry: Mapping[str, Any]) -> Any:
    if name not in registry:
        raise ConfigError(key, f"unknown value {name!r}; choose one of: {choices(registry)}")
    return registry[name]


def _fields(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _check_unknown(method: Mapping[str, Any], loss_keys: Mapping, set_keys: Mapping) -> None:
    for key in method:
        if key not in COMMON and key not in loss_keys and key not in set_keys:
            keys = {*loss_keys, *set_keys, *COMMON}
            close = difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
            hint = f"did you mean method.{close[0]}? " if close else ""
            problem = f"unknown key for {method['loss']} x {method['set']}; {hint}known: {choices(keys)}"
            raise ConfigError(f"method.{key}", problem)


def _construct(cls: type, options: dict[str, Any]) -> Any:
    hints = _fields(cls)
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and needed and field.name not in options:
            raise ConfigError(f"method.{field.name}", f"is missing; {cls.__name__} needs it")
    values = {key: _typed(f"method.{key}", value, hints[key]) for key, value in options.items()}
    return _explained(lambda: cls(**values))


def _typed(key: str, value: Any, hint: Any) -> Any:
    """A value converted to the type of its field: whole numbers and the words inf and -inf become floats."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and value in ("inf", "-inf"):
        value = float(value)
    if not fits(value, hint):
        raise ConfigError(key, f"{'null' if value is None else repr(value)} is not {describe(hint)}")
    return float(value) if float in kinds and value is not None else value


def _explained(build: Any) -> Any:
    """Call ``build``; a ValueError 'field: problem' becomes a ConfigError about ``method.field``."""
    try:
        return build()
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise ConfigError(f"method.{field}" if problem else "method", problem or str(error)) from error
    except TypeError as error:
        raise ConfigError("method", str(error)) from error
