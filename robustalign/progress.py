"""Progress of long computations on stderr: one line when a stage begins, then one a minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
EVERY = 60.0  # seconds between two lines about the same stage


def say(text: str) -> None:
    """A line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Pace:
    """Prints once a minute how far a stage is, how fast it goes and how long it will take.

    Args:
        what: the stage.
        total: how many ``unit`` it has; None where nobody knows.
        unit: such as ``steps``.
        done: how many were done before.
        clock: seconds.
    """

    def __init__(
        self, what: str, total: int | None, unit: str, done: float = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.total, self.unit, self.first, self.clock = what, total, unit, done, clock
        self.began = self.last_line = clock()

    @property
    def due(self) -> bool:
        """Whether the last line is a minute old."""
        return self.clock() - self.last_line >= EVERY

    def update(self, done: float, more: str = "") -> None:
        """Say how far it is, if a line is due; ``more`` follows."""
        if not self.due or done <= self.first:
            return
        self.last_line = self.clock()
        each = (self.last_line - self.began) / (done - self.first)
        pace = f"{1 / each:.3g} {self.unit}/s" if each <= 1 else f"{duration(each)} for each"
        left = "" if self.total is None else f", {duration((self.total - done) * each)} left"
        of = "" if self.total is None else f" of {self.total:,}"
        done = int(done) if done == int(done) else round(done, 1)
        say(f"{self.what}: {done:,}{of} {self.unit}, {pace}{left}{more and f'; {more}'}")


def paced(items: Sequence[Item], what: str | None, unit: str = "batches") -> Iterator[Item]:
    """The items one by one; a line a minute says how far they are, unless ``what`` is None."""
    pace = Pace(what or "", len(items), unit)
    for number, item in enumerate(items, start=1):
        yield item
        if what is not None:
            pace.update(number)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whatever reads best."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
