"""A model that reads prompts once and then writes many rows a token at a time."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from robustalign.policies.logprobs import at_least_fp32


class Decoding:
    """Rows of tokens that grow by one a step; a row may leave, or be there several times.

    What was computed stays in the model's key-value cache. A model without a cache that rows can leave (transformers
    knows a few) computes every step from the beginning.

    Args:
        model: with or without adapters, in ``eval`` mode.
        prompts: ``[U, T]`` int64, padded on the left.
        attention: ``[U, T]`` int64, 0 at the padding.
    """

    def __init__(self, model: PreTrainedModel, prompts: Tensor, attention: Tensor) -> None:
        wrapper: Any = model
        self.model: Any = wrapper.get_base_model() if hasattr(model, "get_base_model") else model
        self.takes = inspect.signature(self.model.forward).parameters
        self.ids, self.attention = prompts, attention
        self.cache: Any = None
        self.logits = self._forward()

    def _forward(self) -> Tensor:
        inputs: dict[str, Any] = {"attention_mask": self.attention, "past_key_values": self.cache, "use_cache": True}
        if "position_ids" in self.takes:
            inputs["position_ids"] = (self.attention.cumsum(1) - 1).clamp(min=0)
        length = None if self.cache is None else 1
        prepared = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=length, is_first_iteration=length is None, **inputs
        )
        if "logits_to_keep" in self.takes:
            prepared["logits_to_keep"] = 1
        output = self.model(**prepared)
        cache = getattr(output, "past_key_values", None)
        self.cache = cache if isinstance(cache, Cache) else None
        return at_least_fp32(output.logits[:, -1])

    def keep(self, rows: Tensor) -> Decoding:
        """Go on with ``rows [B]`` alone, indices that may repeat, in this order."""
        self.ids, self.attention, self.logits = self.ids[rows], self.attention[rows], self.logits[rows]
        if self.cache is not None:
            self.cache.reorder_cache(rows)
        return self

    def extend(self, tokens: Tensor) -> None:
        """Append ``tokens [B]`` to the rows; ``logits [B, V]``, fp32 at least, are then those of the next."""
        self.ids = torch.cat([self.ids, tokens[:, None]], 1)
        self.attention = torch.cat([self.attention, self.attention.new_ones(len(tokens), 1)], 1)
        self.logits = self._forward()
