"""How often a policy's implicit reward prefers the reply that was chosen."""

from __future__ import annotations

import numpy as np

from robustalign.evaluation.metrics.metric import PairMetric


def correct(margin: np.ndarray, beta: float) -> np.ndarray:
    """``[N]``: 1 where the margin is positive, 0 where it is negative, a half for a tie, nan for nan."""
    return np.heaviside(margin, 0.5)


ACCURACY = PairMetric(
    name="accuracy",
    title="accuracy on held-out pairs",
    unit="share",
    better=1,
    low=0.0,
    high=1.0,
    rank=1,
    of_margins=correct,
)
