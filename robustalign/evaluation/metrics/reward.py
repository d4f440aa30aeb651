"""The reward of generated replies, in the eyes of each component's people."""

from __future__ import annotations

import numpy as np

from robustalign.evaluation.metrics.metric import Cell, Replies, ReplyMetric


def utilities(replies: Replies) -> dict[str, Cell]:
    """Standardised utility of the replies to the prompts that are a component's own."""
    cells = {}
    for component in replies.components:
        own = replies.groups == component.group if component.group else np.ones(len(replies.groups), dtype=bool)
        utility = np.where(own[:, None], component.utility(replies.scores), 0.0)
        cells[component.name] = Cell(utility.sum(1), own * utility.shape[1])
    return cells


REWARD = ReplyMetric(
    name="reward",
    title="reward of generated replies",
    unit="sd",
    better=1,
    rank=0,
    of_replies=utilities,
)
