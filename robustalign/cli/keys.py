"""``KEY=VALUE`` arguments of the commands that compose no run."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustalign.errors import ConfigError, choices
from robustalign.stores import check_scheme, keep_password, sqlite_file, sqlite_uri
from robustalign.tracking.glance import check_results


class Keys(dict[str, "str | None"]):
    """The values by key, defaults filled in."""

    def number(self, key: str, least: float) -> int:
        """A whole number of at least ``least``."""
        return int(self._checked(key, least, int))

    def share(self, key: str) -> float:
        """A number of at least 0."""
        return self._checked(key, 0.0, float)

    def store(self, output: Path) -> str:
        """The store's URI.

        Raises:
            ConfigError: the SQLite file does not exist (reading must not create it), or has no such ``experiment``.
        """
        address = self["tracking.uri"]
        uri = keep_password(address) if address else sqlite_uri(output / "mlflow.db")
        check_scheme(uri)
        file = sqlite_file(uri)
        if file is not None and not file.is_file():
            key = "tracking.uri" if address else "paths.output"
            raise ConfigError(key, f"there is no tracking store at {file}; train first, or name the right place")
        if file is not None and self.get("experiment"):
            check_results(file, str(self["experiment"]))
        return uri

    def _checked(self, key: str, least: float, kind: type[int] | type[float]) -> float:
        try:
            value = kind(str(self[key]))
        except ValueError:
            raise ConfigError(key, f"{self[key]!r} is not a number") from None
        if not value >= least:
            raise ConfigError(key, f"{value} is below {least:g}")
        return value


def read_keys(
    words: Sequence[str], help_text: str, defaults: Mapping[str, str | None], required: Sequence[str] = ()
) -> Keys:
    """The arguments of a command; ``--help`` prints and exits.

    Raises:
        ConfigError: an unknown key, no ``=``, or a required key is missing.
    """
    if {"-h", "--help"} & set(words):
        print(help_text, end="")
        sys.exit(0)
    keys = Keys(defaults)
    for word in words:
        key, equals, value = word.partition("=")
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {choices(defaults)}"
            raise ConfigError(key, f"unknown key; {hint}")
        if not equals or not value:
            raise ConfigError(key, f"write {key}=VALUE")
        keys[key] = value
    for key in required:
        if not keys[key]:
            raise ConfigError(key, f"is missing; write {key}=NAME")
    return keys
