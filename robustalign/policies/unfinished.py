"""Sampling that goes on after a kill: the replies drawn so far and the random state behind them, in one file."""

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

    def load(self, device: torch.device) -> list[list[int]]:
        """The replies drawn until now, in the order of drawing; the random state becomes the one behind them."""
        if not self.file.is_file():
            return []
        saved = load_file(self.file)
        torch.set_rng_state(saved["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["cuda"], device)
        return [part.tolist() for part in saved["ids"].split(saved["lengths"].tolist())]

    def save(self, replies: Sequence[Sequence[int]], device: torch.device) -> None:
        """Write them with the random state, if the last save is old enough."""
        if time.monotonic() - self.last < self.every:
            return
        state = {
            "ids": torch.tensor([token for reply in replies for token in reply], dtype=torch.int64),
            "lengths": torch.tensor([len(reply) for reply in replies], dtype=torch.int64),
            "cpu": torch.get_rng_state(),
        }
        if device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(device)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as scratch:
            save_file(state, scratch)
        self.last = time.monotonic()

    def remove(self) -> None:
        """The replies are kept elsewhere."""
        self.file.unlink(missing_ok=True)
