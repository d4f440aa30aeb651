"""Features of a reply: the mean of the frozen reference's hidden states over the reply's tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustalign.policies.logprobs import unwrapped
from robustalign.policies.packing import Rows
from robustalign.progress import paced


def layer_count(model: torch.nn.Module) -> int:
    """The number of layers behind the input embeddings; 0 if the config does not say."""
    config = unwrapped(model).config.get_text_config()
    return int(getattr(config, "num_hidden_layers", None) or 0)


@torch.no_grad()
def reply_features(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    pad: int,
    batch_size: int,
    progress: str | None = None,
) -> Tensor:
    """phi(prompt, reply): mean over the reply's tokens of the hidden states at ``layers``, side by side.

    Args:
        prompts: token ids, one list a row.
        replies: token ids of the completion, one non-empty list a row.
        layers: 0 is the input embeddings, l the output of the l-th block.

    Returns:
        fp32 ``[len(prompts), len(layers) * D]`` on the CPU.

    Raises:
        ValueError: a layer that the model does not have, or a model that returns no hidden states.
    """
    inner = unwrapped(model)
    unknown = [layer for layer in layers if not 0 <= layer <= max(layer_count(model), 0)]
    if unknown:
        raise ValueError(f"layers: the model has the layers 0 to {layer_count(model)}, not {unknown}")
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(replies[i]))
    parts: dict[int, Tensor] = {}
    for start in paced(range(0, len(order), batch_size), progress):
        chosen = order[start : start + batch_size]
        rows = Rows.collate([prompts[i] for i in chosen], [replies[i] for i in chosen], pad).to(device)
        for i, feature in zip(chosen, _means(inner, rows, layers).cpu(), strict=True):
            parts[i] = feature
    return torch.stack([parts[i] for i in range(len(prompts))])


def _means(model: torch.nn.Module, rows: Rows, layers: Sequence[int]) -> Tensor:
    """``[R, len(layers) * D]``; the input embeddings alone need no forward."""
    if set(layers) == {0}:
        states: Sequence[Tensor] = [model.get_input_embeddings()(rows.ids)]  # type: ignore[operator]
    else:
        output = model(
            input_ids=rows.ids, attention_mask=rows.attention.long(), output_hidden_states=True, use_cache=False
        )
        states = getattr(output, "hidden_states", None) or ()
        if len(states) <= max(layers):
            raise ValueError(f"layers: {type(model).__name__} returns no hidden states; take layers: [0]")
    mask = rows.completion.unsqueeze(-1)
    return torch.cat([(states[layer].float() * mask).sum(1) / mask.sum(1) for layer in layers], dim=-1)
