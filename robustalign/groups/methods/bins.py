"""Groups by how hard a pair is: quantiles of a statistic under the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robustalign.bounds import number
from robustalign.groups.grouping import Grouping, Groups, PairData, one_hot


@dataclass(frozen=True, kw_only=True)
class Bins(Grouping):
    """Quantile bins of a numeric column, after the prompt bins of multi-adversary GDRO (arXiv 2601.19280).

    Args:
        by: ``reference_margin`` (log ref(chosen) - log ref(rejected), nats), ``reference_logp`` (of chosen),
            ``length`` (tokens of chosen minus tokens of rejected), or a column of numbers.
        k: bins, >= 2.
    """

    name: ClassVar[str] = "bins"
    by: str = "reference_margin"
    k: int = number(4, "[2, inf)")

    def find(self, data: PairData) -> Groups:
        if self.by not in data.columns:
            raise ValueError(f"by: the pairs have no column {self.by!r}; they have: {', '.join(sorted(data.columns))}")
        try:
            values = np.asarray(data.columns[self.by], dtype=np.float64)
        except ValueError as error:
            raise ValueError(f"by: column {self.by!r} is not a column of numbers ({error})") from error
        cuts = np.unique(np.quantile(values, np.arange(1, self.k) / self.k))
        ids = np.searchsorted(cuts, values, side="right")
        present = np.unique(ids)
        edges = [-np.inf, *cuts, np.inf]
        names = tuple(f"{self.by} {edges[i]:.3g} to {edges[i + 1]:.3g}" for i in present)
        return Groups(names=names, membership=one_hot(np.searchsorted(present, ids), len(present)))
