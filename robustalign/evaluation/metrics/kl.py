"""How far the generated replies' distribution is from the reference's."""

from __future__ import annotations

import numpy as np

from robustalign.evaluation.metrics.metric import WHOLE, Cell, Replies, ReplyMetric


def divergence(replies: Replies) -> dict[str, Cell]:
    """KL(policy || reference) a reply, nats, whoever judges."""
    return {WHOLE: Cell(replies.kl.sum(1), np.full(len(replies.kl), replies.kl.shape[1]))}


KL = ReplyMetric(
    name="kl",
    title="KL from the reference",
    unit="nats a reply",
    better=-1,
    low=0.0,
    rank=3,
    compared=False,
    of_replies=divergence,
)
