"""Sampling that goes on after a kill: the replies drawn so far, in one file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from robustalign.files import replacing

EVERY = 60.0  # seconds between two saves


class Unfinished:
    """The file of one call of ``sample_replies``; whoever goes on draws what an uninterrupted call would have drawn.

    Args:
        file: safetensors; it belongs to one set of prompts, settings and seed.
        every: seconds between two saves.
    """

    def __init__(self, file: Path, every: float = EVERY) -> None:
        self.file, self.every, self.last = file, every, time.monotonic()

    def load(self) -> list[list[int]]:
        """The replies drawn until now, in the order of drawing."""
        if not self.file.is_file():
            return []
        saved = load_file(self.file)
        return [part.tolist() for part in saved["ids"].split(saved["lengths"].tolist())]

    def save(self, replies: Sequence[Sequence[int]]) -> None:
        """Write them, if the last save is old enough."""
        if time.monotonic() - self.last < self.every:
            return
        state = {
            "ids": torch.tensor([token for reply in replies for token in reply], dtype=torch.int64),
            "lengths": torch.tensor([len(reply) for reply in replies], dtype=torch.int64),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as scratch:
            save_file(state, scratch)
        self.last = time.monotonic()

    def remove(self) -> None:
        """The replies are kept elsewhere."""
        self.file.unlink(missing_ok=True)
