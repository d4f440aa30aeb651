"""Rewards that anybody can recompute by eye."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np

from robustalign.bounds import OneOf
from robustalign.rewards import Scorer

MEASURES: dict[str, tuple[Callable[[str], float], bool]] = {
    "ask": (lambda reply: float("?" in reply), True),  # the reply asks back
    "short": (lambda reply: -float(np.log1p(len(reply.split()))), False),  # few words
    "long": (lambda reply: float(np.log1p(len(reply.split()))), False),  # many words
}


def build(assets: Path, measure: Annotated[str, OneOf(tuple(MEASURES))]) -> Scorer:
    """``measure``: ask (1 where the reply holds a question mark), short or long (log of 1 + words)."""
    function, unit = MEASURES[measure]
    return Scorer(lambda _prompts, replies: np.array([function(reply) for reply in replies]), unit=unit)
