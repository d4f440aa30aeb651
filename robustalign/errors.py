"""The one exception for what a user can fix."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(Exception):
    """A configuration that cannot run; raised before anything expensive starts.

    ``key`` names the config key at fault (``method.radius``), ``problem`` what is wrong with its
    value and how to mend it. ``str()`` is one line, fit to be the last thing a command prints.
    """

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        self.problem = " ".join(problem.split())
        super().__init__(f"{key}: {self.problem}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.problem)


def choices(names: Iterable[str]) -> str:
    """The allowed values of a key, for an error message."""
    return ", ".join(sorted(names)) or "none"
