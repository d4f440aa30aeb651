"""Finds pair losses and ambiguity sets by looking through the modules of a package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from inspect import isclass
from pkgutil import walk_packages
from types import MappingProxyType
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, base: type[T]) -> Mapping[str, type[T]]:
    """All classes below ``base`` that modules of ``package`` define with a ``name``, by that name.

    Raises:
        ValueError: two of them share a name.
    """
    classes: dict[str, type[T]] = {}
    for module in walk_packages(import_module(package).__path__, package + "."):
        for value in vars(import_module(module.name)).values():
            if not (isclass(value) and issubclass(value, base) and value.__module__ == module.name):
                continue
            name = vars(value).get("name")
            if name is None:
                continue
            if name in classes:
                raise ValueError(
                    f"name: {value.__qualname__} and {classes[name].__qualname__} are both called {name!r}"
                )
            classes[name] = value
    return MappingProxyType(dict(sorted(classes.items())))
