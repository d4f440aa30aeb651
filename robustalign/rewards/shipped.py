"""Reward models that ship with the package: ``path: asset:NAME`` names one in ``assets/rewards``."""

from __future__ import annotations

from pathlib import Path

from robustalign.errors import choices

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "rewards"


def placed(path: str) -> str:
    """The folder that ``asset:NAME`` names; any other path as it is, with ``~`` for the home.

    Raises:
        ValueError: no such reward ships.
    """
    kind, _, name = path.partition(":")
    if kind != "asset":
        return str(Path(path).expanduser())
    if not (FOLDER / name / "config.json").is_file():
        there = (folder.name for folder in FOLDER.iterdir() if (folder / "config.json").is_file())
        raise ValueError(f"path: no shipped reward {name!r}; there are: {choices(there)}")
    return str(FOLDER / name)
