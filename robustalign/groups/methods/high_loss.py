"""The pairs that an early policy gets wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from robustalign.bounds import number
from robustalign.groups.grouping import Grouping, Groups, PairData, one_hot


@dataclass(frozen=True, kw_only=True)
class HighLoss(Grouping):
    """Pairs on the wrong side of a short first run (Just Train Twice, arXiv 2107.09044, for pairs).

    A run that has converged has fitted the minority's pairs; stopped early, or with the optimistic tilt of Dr. DPO,
    which gives up on pairs of a high loss, it has not.

    Args:
        steps: optimiser steps of the first run, >= 1.
        temperature: of the first run's optimistic tilt, > 0; inf is plain DPO.
        beta: of its implicit reward.
    """

    name: ClassVar[str] = "high_loss"
    needs: ClassVar[frozenset[str]] = frozenset({"losses"})
    steps: int = number(40, "[1, inf)")
    temperature: float = number(1.0, "(0, inf]")
    beta: float = number(0.1, "(0, inf)")

    def first_run(self) -> dict[str, Any]:
        tilt = {"set": "kl", "direction": "optimistic", "temperature": self.temperature, "radius": None}
        return {"method": {"name": "first_run", "loss": "sigmoid", "beta": self.beta, **tilt}, "steps": self.steps}

    def find(self, data: PairData) -> Groups:
        assert data.losses is not None
        wrong = data.losses > np.log(2.0)  # a margin below 0
        if not wrong.any() or wrong.all():
            raise ValueError(f"steps: after {self.steps} steps {int(wrong.sum())} of {len(data)} pairs are wrong")
        return Groups(names=("right", "wrong"), membership=one_hot(wrong.astype(int), 2), score=data.losses)
