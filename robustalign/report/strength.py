"""How strong a method is: the number that its ambiguity set declares as its knob."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob


@dataclass(frozen=True)
class Strength:
    """A knob and the value that a method gives it."""

    knob: Knob
    value: float

    @property
    def order(self) -> float:
        """How far the value leads from dpo; it orders the values of one knob and compares with no other knob."""
        return self.knob.strength(self.value)

    @property
    def axis(self) -> str:
        """The knob's name and unit, for axes."""
        return f"{self.knob.field} ({self.knob.unit})"


def set_of(method: Mapping[str, Any]) -> type[AmbiguitySet] | None:
    """The class of a method's ambiguity set; None where this version has none of that name."""
    from robustalign.objectives import SETS  # needs torch, which reading runs does not

    return SETS.get(str(method.get("set")))


def strength_of(method: Mapping[str, Any]) -> Strength | None:
    """The strength that the ``method`` keys of a config set; None where the set has no knob."""
    kind = set_of(method)
    knob = None if kind is None else kind.knob(method)
    return None if knob is None else Strength(knob, float(method[knob.field]))


def has_kl_radius(method: Mapping[str, Any]) -> bool:
    """Whether the radius of a method's set is a KL divergence between the weights of pairs, in nats."""
    kind = set_of(method)
    if kind is None or kind.acts_on != "weights":
        return False
    return any((knob.field, knob.unit) == ("radius", "nats") for knob in kind.knobs)


def columns_of(method: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of tables that say how strong a method is: its knob and the value, and other numbers it may have."""
    strength = strength_of(method)
    knob = {"knob": "", "knob_value": math.nan}
    if strength is not None:
        knob = {"knob": strength.knob.field, "knob_value": strength.value}
    return knob | {key: _number(method.get(key)) for key in ("radius", "temperature", "beta")}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
