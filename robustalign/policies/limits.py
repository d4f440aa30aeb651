"""What an architecture cannot do, by its config: refused by the right key before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PretrainedConfig

from robustalign.config import ModelConfig
from robustalign.errors import ConfigError

SCALED_BY_LENGTH = ("longrope", "dynamic")
"""Rotary frequencies that depend on the longest row of a batch, beyond the length of pretraining."""
UNBOUNDED = ("rope_parameters", "rope_theta", "rotary_dim", "rotary_pct", "rotary_ndims", "alibi", "attn_config")
"""Settings of positions that are computed, for any length."""


def check_limits(declared: PretrainedConfig, config: ModelConfig, tokens: int | None = None) -> None:
    """Refuse rows that are longer than the model can read, attention that drops a soft-cap, ids without an embedding.

    Args:
        declared: the checkpoint's config.
        config: what is asked of it.
        tokens: number of ids of its tokenizer; None if it is not known.

    Raises:
        ConfigError: about ``model.max_length``, ``model.attention`` or ``model.path``.
    """
    text = declared.get_text_config()
    for kind, original in _rope(text):
        if any(name in kind for name in SCALED_BY_LENGTH) and original is not None and config.max_length > original:
            raise ConfigError(
                "model.max_length",
                f"{config.max_length} exceeds the {original} positions of pretraining, beyond which {kind} frequencies "
                f"of a row depend on the rows beside it; stay at or below {original}",
            )
    positions = getattr(text, "max_position_embeddings", None)
    computed = any(getattr(text, name, None) for name in UNBOUNDED)
    if positions is not None and not computed and config.max_length > positions:
        raise ConfigError(
            "model.max_length", f"{config.max_length} exceeds the model's {positions} positions; stay at or below them"
        )
    if getattr(text, "attn_logit_softcapping", None) and config.attention == "sdpa":
        problem = "sdpa leaves out the soft-cap of this model's attention; use model.attention=eager"
        raise ConfigError("model.attention", problem)
    size = getattr(text, "vocab_size", None)
    if tokens is not None and size is not None and tokens > size:
        raise ConfigError(
            "model.path",
            f"the tokenizer has {tokens} ids, the model {size} embeddings; resize them and save the model again",
        )


def _rope(text: Any) -> Iterator[tuple[str, int | None]]:
    """Each kind of rotary embedding, and the length from which it is scaled."""
    declared = getattr(text, "rope_parameters", None) or {}
    layers = declared.values() if declared and all(isinstance(v, dict) for v in declared.values()) else [declared]
    for part in layers:
        original = part.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        yield str(part.get("rope_type", "default")), original or getattr(text, "max_position_embeddings", None)
