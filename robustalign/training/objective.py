"""From the flat keys of ``method`` to a pair loss and an ambiguity set.

The fields of the two dataclasses are the schema: a key belongs to the loss or the set that has a field
of its name, and to nobody else. So a new loss or set is one file under ``robustalign/objectives`` and one
yaml under ``conf/method``.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustalign.errors import ConfigError, choices
from robustalign.objectives import LOSSES, SETS, AmbiguitySet, PairLoss

COMMON = ("name", "loss", "set", "scope", "oracle", "target")
SCOPES = ("batch", "microbatch", "stream")
COLUMNS = frozenset(
    {"chosen_logratio", "rejected_logratio", "chosen_logp", "rejected_logp", "chosen_length", "rejected_length",
     "weight", "group", "score_gap", "soft_label", "policy_weight"}
)  # fmt: skip


@dataclass(frozen=True)
class Objective:
    """A method: ``loss`` x ``set``, and over which pairs the set looks at once.

    ``scope``: batch (the whole optimiser batch, over micro-batches and ranks), microbatch (each forward by
    itself, as the paper's code does) or stream (batch, with the dual carried from step to step).
    ``oracle``: train with knowledge of the population ``target``.
    """

    name: str
    loss: PairLoss
    set: AmbiguitySet
    scope: str = "batch"
    oracle: bool = False
    target: str | None = None

    @property
    def beta(self) -> float:
        """The scale of implicit rewards: beta h is how much better the policy finds chosen than rejected."""
        return float(getattr(self.loss, "beta", 1.0))

    @property
    def needs(self) -> frozenset[str]:
        return self.loss.needs | self.set.needs


def build_objective(method: Mapping[str, Any], batch_size: int | None = None) -> Objective:
    """The objective a ``method`` config describes.

    ``batch_size``: pairs whose worst case is taken together; radii that put all mass on one of them are refused.

    Raises:
        ConfigError: unknown loss, set or key, or a value that they refuse.
    """
    loss_class = _known("method.loss", method.get("loss"), LOSSES)
    set_class = _known("method.set", method.get("set"), SETS)
    scope = method.get("scope", "batch")
    if scope not in SCOPES:
        raise ConfigError("method.scope", f"unknown value {scope!r}; choose one of: {choices(SCOPES)}")
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
    return Objective(
        name=str(method["name"]),
        loss=loss,
        set=ambiguity,
        scope=scope,
        oracle=bool(method.get("oracle", False)),
        target=method.get("target"),
    )


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
            known = choices({*loss_keys, *set_keys, *COMMON})
            raise ConfigError(f"method.{key}", f"unknown key for {method['loss']} x {method['set']}; known: {known}")


def _construct(cls: type, options: dict[str, Any]) -> Any:
    hints = _fields(cls)
    values = {key: _typed(f"method.{key}", value, hints[key]) for key, value in options.items()}
    return _explained(lambda: cls(**values))


def _typed(key: str, value: Any, hint: Any) -> Any:
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in allowed)
    if value is None and type(None) in kinds:
        return None
    if float in kinds and isinstance(value, str) and value in ("inf", "-inf"):
        return float(value)
    if float in kinds and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    literal = [v for kind in allowed if typing.get_origin(kind) is typing.Literal for v in typing.get_args(kind)]
    if value in literal or isinstance(value, tuple(kind for kind in kinds if isinstance(kind, type))):
        return value
    expected = choices(map(str, literal)) if literal else " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
    raise ConfigError(key, f"{value!r} is not {expected}")


def _explained(build: Any) -> Any:
    """Call ``build``; a ValueError 'field: problem' becomes a ConfigError about ``method.field``."""
    try:
        return build()
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise ConfigError(f"method.{field}" if problem else "method", problem or str(error)) from error
    except TypeError as error:
        raise ConfigError("method", str(error)) from error
