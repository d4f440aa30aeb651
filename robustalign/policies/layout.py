"""Which models may run over packed rows, and up to which width.

A packed row holds several replies behind each other, kept apart by a mask and by position ids. The result is
the model's own only if tokens interact through attention alone, and attention depends on nothing but the mask and the
position ids. An architecture that counts places along the row (windows, chunks, distances by index, recurrence) says so
in its config and is never packed. For the others, packed rows are compared with padded ones. An undeclared limit may
show only beyond some length, so the comparison is repeated whenever a tree is wider than all before it.
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
    """The widths that were compared: packed rows are right up to ``width`` and wrong from ``limit`` on."""

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
    """The widths compared so far for a model on an attention path; a model that counts places is never trusted."""
    trusts = _TRUST.setdefault(model, {})
    if attention not in trusts:
        trusts[attention] = Trust(limit=0 if reason_against(model.config, attention) else math.inf)  # type: ignore[arg-type]
    return trusts[attention]


def reason_against(config: PretrainedConfig, attention: str) -> str | None:
    """Why the config forbids packed rows; None if it does not."""
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
