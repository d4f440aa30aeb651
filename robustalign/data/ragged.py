"""Lists of different lengths in a memory-mapped table; each is read when it is indexed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
from datasets import Dataset


class Lists(Sequence[list[Any]]):
    """A column of (lists of) lists of numbers or texts, as a sequence that reads them from the table.

    Args:
        table: with the column.
        column: its name.
    """

    def __init__(self, table: Dataset, column: str) -> None:
        values = table.select_columns(column).with_format("arrow")[:][column]
        self.chunks: list[pa.ListArray] = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        self.ends = np.cumsum([len(chunk) for chunk in self.chunks])

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
        return _list(self.chunks[chunk], place - (int(self.ends[chunk - 1]) if chunk else 0))


def _list(array: pa.ListArray, place: int) -> list[Any]:
    start, end = array.offsets[place].as_py(), array.offsets[place + 1].as_py()
    if pa.types.is_list(array.values.type):
        return [_list(array.values, inner) for inner in range(start, end)]
    part = array.values.slice(start, end - start)
    return part.to_numpy().tolist() if pa.types.is_integer(part.type) else part.to_pylist()
