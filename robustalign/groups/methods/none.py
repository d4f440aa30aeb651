"""No grouping: all pairs are one group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustalign.groups.grouping import Grouping, Groups, PairData


@dataclass(frozen=True, kw_only=True)
class NoGroups(Grouping):
    """One group of all pairs."""

    name: ClassVar[str] = "none"

    def find(self, data: PairData) -> Groups:
        return Groups(names=("all",), membership=np.ones((len(data), 1)))
