"""Which models may run over packed rows, and up to which width.

A packed row holds several replies behind each other, kept apart by a mask and by position ids. That is the model's own
computation only where attention is the one thing that joins tokens, and sees of them nothing but mask and position id.
An architecture that counts places along the row declares so (windows, chunks, distances by index, recurrence) and is
never packed, whatever a comparison says. The others are compared with padded rows; since a limit may show only beyond
some length, a width counts as known once a tree of at least that width has been compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from transformers import PretrainedConfig

MASKED = ("sdpa", "eager")
"""Attention paths that take a mask of any form."""
WINDOWS = ("sliding_window", "attention_window", "local_attention_window", "window_size", "attention_chunk_size")
ALIBI_TYPES = ("bloom", "mpt")
"""Types that add a bias by the distance of indices whatever their config says (MPT may switch it off)."""


@dataclass
class Trust:
    """What comparisons have shown of a model: packed is right up to ``width`` and wrong from ``limit`` on."""

    width: int = 0
    limit: float = math.inf

    def known(self, width: int) -> bool:
        return width <= self.width or width >= self.limit

    def learn(self, width: int, right: bool) -> None:
        if right:
            self.width = max(self.width, width)
        else:
            self.limit = min(self.limit, width)


_TRUST: WeakKeyDictionary[nn.Module, dict[str, Trust]] = WeakKeyDictionary()


def trust_of(model: nn.Module, attention: str) -> Trust:
    """What is known of a model on an attention path; a model that counts places is never trusted."""
    known = _TRUST.setdefault(model, {})
    if attention not in known:
        known[attention] = Trust(limit=0 if reason_against(model.config, attention) else math.inf)  # type: ignore[arg-type]
    return known[attention]


def reason_against(config: PretrainedConfig, attention: str) -> str | None:
    """Why rows are not packed, from what the config declares; None where nothing speaks against it."""
    if attention not in MASKED:
        return f"attention {attention} takes no mask of blocks"
    return next(_reasons(config.get_text_config()), None)


def _reasons(config: Any) -> Iterator[str]:
    layers = getattr(config, "layer_types", None)
    if layers is not None:
        if set(layers) != {"full_attention"}:
            yield "layers of " + ", ".join(sorted(set(layers) - {"full_attention"}))
    else:
        yield from (
            f"{name}={getattr(config, name)}" for name in WINDOWS if isinstance(getattr(config, name, None), int)
        )
    if "local" in str(getattr(config, "attention_types", "")) or "local" in str(
        getattr(config, "attention_layers", "")
    ):
        yield "local attention by index"
    attention = getattr(config, "attn_config", None)
    alibi = getattr(config, "alibi", None) or getattr(attention, "alibi", None)
    if alibi or (config.model_type in ALIBI_TYPES and alibi is None):
        yield "attention biased by the distance of indices (ALiBi)"
    if "relative" in str(getattr(config, "position_embedding_type", "")):
        yield "positions relative by index"
