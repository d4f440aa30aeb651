"""Allowed values: declared beside the field that holds them, checked in one place.

A dataclass field says ``metadata=inside("(0, inf)")`` or ``metadata=one_of(...)``, a parameter of a function
``Annotated[float, Interval("(0, inf)")]``; ``problems`` and ``argument_problems`` compare values with what is declared.
Needs nothing but Python, so that the schema and the objectives can share it.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, Protocol

NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


class Allowed(Protocol):
    """A declaration of allowed values."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value of the right type; None if nothing is."""


@dataclass(frozen=True)
class Interval:
    """The numbers of an interval in mathematical notation: ``[0, 1)`` holds 0 but not 1; ``inf]`` allows infinity.

    ``advice`` follows the message: a value that works, or what the end points mean.
    """

    text: str
    advice: str = ""

    def problem(self, value: Any) -> str | None:
        low, high = self.ends
        if math.isnan(value):
            message = "nan is not a number"
        elif value in self:
            return None
        elif math.isinf(value):
            message = f"{value} is not finite"
        elif math.isfinite(high):
            message = f"{value} is outside {self.text}"
        else:
            message = f"{value} is below {low:g}" if self.text.startswith("[") else f"{value} must be > {low:g}"
        return f"{message}; {self.advice}" if self.advice else message

    @property
    def ends(self) -> tuple[float, float]:
        """The lower and the upper end."""
        low, high = self.text[1:-1].split(",")
        return float(low), float(high)

    def __contains__(self, value: float) -> bool:
        low, high = self.ends
        above = low <= value if self.text.startswith("[") else low < value
        return above and (value <= high if self.text.endswith("]") else value < high)


@dataclass(frozen=True)
class OneOf:
    """The words of a choice."""

    words: Collection[str]

    def problem(self, value: Any) -> str | None:
        if value in self.words:
            return None
        return f"unknown value {value!r}; choose one of: {', '.join(sorted(self.words))}"


def inside(interval: str, advice: str = "") -> dict[str, Allowed]:
    """Metadata of a field that holds numbers of an interval, or a list of such numbers."""
    return {"allowed": Interval(interval, advice)}


def one_of(words: Collection[str]) -> dict[str, Allowed]:
    """Metadata of a field that holds one word of these, or a list of such words."""
    return {"allowed": OneOf(tuple(words))}


def number(default: float | None, interval: str) -> Any:
    """A field with a default that holds numbers of an interval."""
    return field(default=default, metadata=inside(interval))


def word(default: str | None, words: Collection[str]) -> Any:
    """A field with a default that holds one word of these."""
    return field(default=default, metadata=one_of(words))


def numbers(interval: str) -> Any:
    """A field that holds a list of numbers of an interval, empty by default."""
    return field(default_factory=list, metadata=inside(interval))


def words(default: Collection[str], choices: Collection[str]) -> Any:
    """A field that holds a list of words of these."""
    return field(default_factory=lambda: list(default), metadata=one_of(choices))


def problems(holder: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Fields of a dataclass, and of dataclasses in it, with a value of the wrong type or outside what is declared.

    Yields:
        The field's name behind ``prefix``, and what is wrong with it.
    """
    kind: Any = type(holder)
    hints = _hints(kind)
    for one in fields(holder):
        if not one.init:
            continue
        key, value = prefix + one.name, getattr(holder, one.name)
        if is_dataclass(value):
            yield from problems(value, f"{key}.")
        elif message := problem(value, hints[one.name], one.metadata.get("allowed")):
            yield key, message


def refuse(holder: Any) -> None:
    """Raise the first of the :func:`problems` of a dataclass.

    Raises:
        ValueError: ``"field: problem"``.
    """
    for key, message in problems(holder):
        raise ValueError(f"{key}: {message}")


def argument_problems(
    function: Callable[..., Any], options: Mapping[str, Any], *not_options: str
) -> Iterator[tuple[str, str]]:
    """Options that a function does not take, lacks, or takes in another type or range; ``given`` are passed anyway."""
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name not in not_options}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = typing.get_type_hints(function, include_extras=True)
    for name in options:
        if name not in parameters and not anything:
            yield name, f"unknown option; known: {', '.join(sorted(parameters)) or 'none'}"
    for name, parameter in parameters.items():
        if name not in options:
            if parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                yield name, "is missing"
        elif message := problem(options[name], hints.get(name, Any)):
            yield name, message


def problem(value: Any, hint: Any, allowed: Allowed | None = None) -> str | None:
    """What is wrong with a value, from its declared type and what is allowed of it; None if nothing is."""
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        allowed = next((extra for extra in extras if hasattr(extra, "problem")), allowed)
    if not fits(value, hint):
        return f"{'null' if value is None else repr(value)} is not {describe(hint)}"
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str) and not item.strip():
            return "is empty"
        if item is not None and allowed is not None:
            if message := allowed.problem(item):
                return message
        elif isinstance(item, float) and not math.isfinite(item):
            return f"{item} is not finite"
    return None


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the declared type; a whole number is a number, true and false are not."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in args)
    if origin is Literal:
        return value in args
    if origin is list:
        return isinstance(value, list) and all(fits(item, args[0]) for item in value)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def describe(hint: Any) -> str:
    """A declared type in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(describe(one) for one in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin is list:
        return f"a list, each {describe(args[0])}"
    if origin is dict:
        return "a mapping KEY: VALUE"
    return NAMES.get(hint) or str(getattr(hint, "__name__", hint))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
