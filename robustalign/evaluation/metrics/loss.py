"""The DPO loss of held-out pairs."""

from __future__ import annotations

import numpy as np

from robustalign.evaluation.metrics.metric import PairMetric


def sigmoid_loss(margin: np.ndarray, beta: float) -> np.ndarray:
    """``-log sigmoid(beta margin)``, nats ``[N]`` (Rafailov et al. 2023, arXiv 2305.18290, Eq. 7)."""
    with np.errstate(invalid="ignore"):  # a margin of nan has a loss of nan
        return np.logaddexp(0.0, -beta * margin)


LOSS = PairMetric(
    name="loss",
    title="loss on held-out pairs",
    unit="nats",
    better=-1,
    low=0.0,
    rank=2,
    of_margins=sigmoid_loss,
)
