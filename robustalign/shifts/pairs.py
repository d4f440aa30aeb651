"""Preference pairs: which of a prompt's candidates was preferred to which, and by whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

COLUMNS = ("prompt", "chosen", "rejected", "gap", "annotator", "soft_label", "weight")  # of Pairs


@dataclass(frozen=True)
class Pairs:
    """Preference pairs over candidates, ``[N]`` each: prompt row, chosen and rejected column, utility gap.

    ``annotator`` is the index of the component that labelled the pair. ``dropped`` counts, by reason,
    the draws that made no pair. Of people's comparisons: ``soft_label``, the share of votes for the chosen reply, and
    ``weight``, the number of votes; None where scorers label.
    """

    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    gap: np.ndarray
    annotator: np.ndarray
    dropped: Mapping[str, int]
    soft_label: np.ndarray | None = None
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompt)

    def take(self, index: np.ndarray) -> Pairs:
        there: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}
        return replace(self, **{name: column[index] for name, column in there.items()})

    @staticmethod
    def concatenate(parts: Sequence[Pairs]) -> Pairs:
        dropped: dict[str, int] = {}
        for part in parts:
            for reason, count in part.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        there = [name for name in COLUMNS if all(getattr(part, name) is not None for part in parts)]
        columns: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in there}
        return replace(parts[0], **columns, dropped=dropped)
