"""Lists of different lengths in a memory-mapped table; each is read when it is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np
import pyarrow as pa
from datasets import Dataset

Item = TypeVar("Item")


class Lists(Sequence[list[Any]]):
    """A column of (lists of) lists of numbers or texts, as a sequence that reads them from the table.

    Args:
        chunks: of the column, as arrow arrays; :meth:`of` takes them from a table.
    """

    def __init__(self, chunks: Sequence[pa.ListArray]) -> None:
        self.chunks, self.ends = chunks, np.cumsum([len(chunk) for chunk in chunks])
        self.levels = [_levels(chunk) for chunk in chunks]

    @classmethod
    def of(cls, table: Dataset, column: str) -> Lists:
        """The column of a table."""
        values = table.select_columns(column).with_format("arrow")[:][column]
        return cls(values.chunks if isinstance(values, pa.ChunkedArray) else [values])

    def inner(self) -> Lists:
        """The lists within the lists, one after the other."""
        return Lists([chunk.flatten() for chunk in self.chunks])

    @property
    def lengths(self) -> np.ndarray:
        """Of each list, int64 ``[N]``."""
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.diff(offsets).astype(np.int64) for offsets, _ in self.levels)]
        )

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    @overload
    def __getitem__(self, place: int) -> list[Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[Any]]: ...
    def __getitem__(self, place: int | slice) -> list[Any]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place = int(place) % len(self)
        chunk = int(np.searchsorted(self.ends, place, side="right"))
        return _list(self.levels[chunk], place - (int(self.ends[chunk - 1]) if chunk else 0))


class Chosen(Sequence[Item], Generic[Item]):
    """Items of a sequence at the places ``places [N]``, read when they are asked for."""

    def __init__(self, items: Sequence[Item], places: np.ndarray) -> None:
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> Chosen[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | Chosen[Item]:
        if isinstance(place, slice):
            return Chosen(self.items, self.places[place])
        return self.items[int(self.places[place])]


def _levels(array: pa.Array) -> Any:
    """Where each list begins and ends, and what the lists hold: such a pair again, numbers, or texts."""
    if pa.types.is_list(array.type):
        return array.offsets.to_numpy(), _levels(array.values)
    return array.to_numpy(zero_copy_only=False) if pa.types.is_integer(array.type) else array


def _list(levels: Any, place: int) -> list[Any]:
    offsets, inner = levels
    start, end = int(offsets[place]), int(offsets[place + 1])
    if isinstance(inner, tuple):
        return [_list(inner, i) for i in range(start, end)]
    return inner[start:end].tolist()
