"""From a row's columns to the label of the people whom it belongs to: a value, a window of time, seen or new people."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from robustalign.config import ShiftConfig
from robustalign.errors import ConfigError, choices

CROSS = " × "  # between the values of crossed columns
UNKNOWN = "unknown"  # the label of a row without a value
PAST, WINDOW = "past", "window {}"
SEEN, NEW = "seen people", "new people"
Columns = Mapping[str, np.ndarray]


class Labels(ABC):
    """A label for every row."""

    nominal: Any = "observed"  # the nominal population unless the config names one
    several = True  # whether there may be any number of labels

    @property
    @abstractmethod
    def column(self) -> str:
        """What is read, for messages."""

    @abstractmethod
    def of(self, columns: Columns) -> np.ndarray:
        """Labels ``[P]``, text."""

    def order(self, label: str) -> Any:
        """A key that sorts labels."""
        return label

    def lateness(self, names: Sequence[str]) -> np.ndarray | None:
        """Where labels stand on an axis of their own ``[C]``, in [0, 1]; None where they have none."""
        return None


@dataclass(frozen=True)
class Values(Labels):
    """The values of columns, crossed: ``US × woman``."""

    by: tuple[str, ...]

    @property
    def column(self) -> str:
        return f"column {CROSS.join(self.by)}"

    def of(self, columns: Columns) -> np.ndarray:
        parts = [np.where(columns[name] == "", UNKNOWN, columns[name]).astype(object) for name in self.by]
        crossed = parts[0]
        for part in parts[1:]:
            crossed = crossed + CROSS + part
        return crossed.astype(str)


@dataclass(frozen=True)
class Windows(Labels):
    """``past`` up to the first edge, then windows between edges ``[W]``, seconds since the epoch."""

    by: str
    edges: tuple[float, ...]
    nominal = {PAST: 1.0}  # noqa: RUF012
    several = False

    @property
    def column(self) -> str:
        return f"column {self.by}"

    def of(self, columns: Columns) -> np.ndarray:
        names = np.array([PAST, *(WINDOW.format(i + 1) for i in range(len(self.edges)))])
        return names[np.searchsorted(np.array(self.edges), seconds(columns[self.by], self.by), side="right")]

    def order(self, label: str) -> int:
        return 0 if label == PAST else int(label.rpartition(" ")[2])

    def lateness(self, names: Sequence[str]) -> np.ndarray:
        places = [self.order(name) if name == PAST or name.startswith("window ") else len(self.edges) for name in names]
        return np.array(places) / len(self.edges)


@dataclass(frozen=True)
class People(Labels):
    """``new people``: so large a ``share`` of the annotators, by a hash of who they are."""

    by: str
    share: float
    nominal = {SEEN: 1.0}  # noqa: RUF012
    several = False

    @property
    def column(self) -> str:
        return f"column {self.by}"

    def of(self, columns: Columns) -> np.ndarray:
        people, index = np.unique(columns[self.by], return_inverse=True)
        return np.array([NEW if _point(name) < self.share else SEEN for name in people.tolist()])[index]

    def order(self, label: str) -> int:
        return (SEEN, NEW).index(label)


def _point(name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"annotator {name}".encode()).digest()[:8], "big") / 2**64


def build_labels(config: ShiftConfig, columns: Mapping[str, Columns]) -> Labels:
    """What ``shift.kind`` and ``shift.by`` say.

    Raises:
        ConfigError: no such column, or dates that do not parse.
    """
    by = [config.by] if isinstance(config.by, str) else list(config.by or [])
    there = list(next(iter(columns.values())))
    for name in by:
        if name not in there:
            has = f"there are: {choices(there)}" if there else "the data carry none; name them in dataset.columns"
            raise ConfigError("shift.by", f"no column {name!r}; {has}")
    if config.kind == "groups":
        return Values(tuple(by))
    if config.kind == "annotators":
        empty = sum(int((rows[by[0]] == "").sum()) for rows in columns.values())
        if empty:
            raise ConfigError("shift.by", f"{empty} rows have no {by[0]!r}; leave them out (dataset.where)")
        return People(by[0], config.held_out)
    return Windows(by[0], _edges(config, by[0], columns))


def _edges(config: ShiftConfig, by: str, columns: Mapping[str, Columns]) -> tuple[float, ...]:
    """The end of the past, then the ends of all windows but the last: each holds as many of all rows."""
    times = np.sort(np.concatenate([seconds(rows[by], by, split) for split, rows in columns.items()]))
    if isinstance(config.cut, str):
        first = _second(config.cut)
        if math.isnan(first):
            raise ConfigError("shift.cut", f"{config.cut!r} is neither a share of the rows nor a date")
    else:
        first = float(np.quantile(times, config.cut))
    later = times[times >= first]
    if not len(later) or len(later) == len(times):
        raise ConfigError("shift.cut", f"{config.cut} leaves no row {'after' if not len(later) else 'before'} it")
    inner = np.quantile(later, np.arange(1, config.windows) / config.windows, method="higher")
    edges = tuple(dict.fromkeys([first, *inner.tolist()]))
    if len(edges) < config.windows:
        raise ConfigError("shift.windows", f"{config.windows} windows need as many times after the cut; take fewer")
    return edges


def seconds(values: np.ndarray, column: str, split: str = "", rows: Sequence[str] = ()) -> np.ndarray:
    """Times ``[P]`` as seconds since the epoch: ISO dates (UTC unless they say otherwise), or numbers of seconds or
    milliseconds. ``rows``: where each stands in the data, for the message.

    Raises:
        ConfigError: one does not parse.
    """
    texts, index = np.unique(values, return_inverse=True)
    times = np.array([_second(text) for text in texts.tolist()])[index]
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0])
        where = f"{rows[row] if len(rows) else f'{split} row {row}'.lstrip()} of column {column!r}"
        fix = "dates look like 2024-05-31, 2024-05-31T12:00:00+00:00 or 1717113600"
        raise ConfigError("shift.by", f"{where} holds {str(values[row])!r}, which is no date; {fix}")
    return times


def _second(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        try:
            when = datetime.fromisoformat(text.strip())
        except ValueError:
            return math.nan
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return number / 1000 if abs(number) > 1e11 else number
