"""Preference pairs: which of a prompt's candidates was preferred to which, and by whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

COLUMNS = ("prompt", "chosen", "rejected", "gap", "annotator")  # of Pairs


@dataclass(frozen=True)
class Pairs:
    """Preference pairs over candidates, ``[N]`` each: prompt row, chosen and rejected column, utility gap.

    ``annotator`` is the index of the component that labelled the pair. ``dropped`` counts, by reason,
    the draws that made no pair.
    """

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    gap: np.ndarray
    annotator: np.ndarray
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, index: np.ndarray) -> Pairs:
        columns = {name: getattr(self, name)[index] for name in COLUMNS}
        return Pairs(**columns, dropped=self.dropped)

    @staticmethod
    def concatenate(parts: Sequence[Pairs]) -> Pairs:
        dropped: dict[str, int] = {}
        for part in parts:
            for reason, count in part.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
        return Pairs(**columns, dropped=dropped)
