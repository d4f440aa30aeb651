"""Sampling that goes on after a kill, or is shared by ranks: the replies drawn so far, in a file of each rank."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from robustalign.files import replacing

EVERY = 60.0  # seconds between two saves


class Unfinished:
    """What is known of the replies that one request asks for, by their place in ``Request.rows``.

    Args:
        file: safetensors; it belongs to one set of prompts, settings and seed. Ranks have files of their own beside it.
        rank: whose file this process writes; all are read.
        every: seconds between two saves.
    """

    def __init__(self, file: Path, rank: int = 0, every: float = EVERY) -> None:
        self.file, self.every, self.last = file, every, time.monotonic()
        self.own = file.with_name(f"{file.name}.{rank}")

    def load(self) -> dict[int, list[int]]:
        """The replies that any rank has saved."""
        known: dict[int, list[int]] = {}
        for part in self._parts():
            saved = load_file(part)
            replies = [reply.tolist() for reply in saved["ids"].split(saved["lengths"].tolist())]
            known |= dict(zip(saved["places"].tolist(), replies, strict=True))
        return known

    def save(self, replies: Mapping[int, list[int]], now: bool = False) -> None:
        """Write them, if the last save is old enough or ``now``."""
        if not now and time.monotonic() - self.last < self.every:
            return
        columns = {
            "places": list(replies),
            "ids": [token for reply in replies.values() for token in reply],
            "lengths": [len(reply) for reply in replies.values()],
        }
        self.own.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.own) as scratch:
            save_file({name: torch.tensor(column, dtype=torch.int64) for name, column in columns.items()}, scratch)
        self.last = time.monotonic()

    def remove(self) -> None:
        """The replies are kept elsewhere."""
        for part in self._parts():
            part.unlink(missing_ok=True)

    def _parts(self) -> list[Path]:
        return sorted(self.file.parent.glob(f"{self.file.name}.*"))
