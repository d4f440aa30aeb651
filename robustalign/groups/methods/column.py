"""Groups that the data name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustalign.groups.grouping import Grouping, Groups, PairData, one_hot


@dataclass(frozen=True, kw_only=True)
class Column(Grouping):
    """One group for each value of a column, the rarest value last.

    Args:
        by: the column's name.
    """

    name: ClassVar[str] = "column"
    by: str

    def find(self, data: PairData) -> Groups:
        values, ids = np.unique(named_column(data, "by", self.by), return_inverse=True)
        order = np.argsort(-np.bincount(ids), kind="stable")
        place = np.argsort(order)
        return Groups(names=tuple(str(values[i]) for i in order), membership=one_hot(place[ids], len(values)))


def named_column(data: PairData, key: str, name: str) -> np.ndarray:
    """A column of the pairs, ``[N]``; ``key`` is the field that names it.

    Raises:
        ValueError: there is no such column, or it has a single value.
    """
    if name not in data.columns:
        names = ", ".join(sorted(data.columns)) or "none"
        raise ValueError(f"{key}: the pairs have no column {name!r}; they have: {names}")
    column = data.columns[name]
    if len(np.unique(column)) < 2:
        raise ValueError(f"{key}: column {name!r} has one value, {column[0]!r}; groups need two")
    return column
