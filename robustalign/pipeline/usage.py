"""Seconds and peak memory of a run's stages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from robustalign.progress import say


class Usage:
    """Of each stage by name: ``seconds`` of wall time, and ``memory``, the most bytes in use (the GPU's, if there is
    one). The memory of a stage leaves out the stages inside it; its seconds do not."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, int] = {}
        self._open: list[str] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block; print that it begins, unless ``quiet``."""
        if not self.quiet:
            say(f"{name.replace('_', ' at step ')} ...")
        self._look()
        self._open.append(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = time.perf_counter() - started
            self._look()
            self._open.pop()

    def _look(self) -> None:
        """Assign the peak since the last call to the innermost open stage."""
        if self._open:
            name = self._open[-1]
            self.memory[name] = max(self.memory.get(name, 0), _peak())
        _forget_peak()


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # other systems than Linux only know the peak of the process so far
        Path("/proc/self/clear_refs").write_text("5")
