"""Supervised fine-tuning: next-token training of a language model on texts, before any pair is made of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from robustalign.config import SftConfig
from robustalign.errors import ConfigError
from robustalign.progress import Pace

IGNORED = -100  # the label of padding, which transformers leaves out of its loss


def fine_tune(
    model: PreTrainedModel, rows: Sequence[list[int]], config: SftConfig, *, pad: int, seed: int = 0
) -> list[float]:
    """Train ``model`` in place; returns the loss of every step, nats a token.

    Args:
        rows: token ids of the texts, with whatever begins and ends a text.
        pad: the id that fills rows up.
        seed: of the order, which is drawn anew for every pass.

    Raises:
        ConfigError: the loss is not finite.
    """
    order = torch.Generator().manual_seed(seed)
    size = min(config.batch_size, len(rows))
    steps = max(1, round(config.epochs * (len(rows) // size)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    pace, losses = Pace("sft", steps, "steps"), list[float]()
    places: list[int] = []
    model.train()
    for step in range(steps):
        if len(places) < size:
            places = torch.randperm(len(rows), generator=order).tolist()
        taken, places = places[:size], places[size:]
        loss = model(**_batch([rows[i] for i in taken], pad, model.device)).loss
        if not torch.isfinite(loss):
            raise ConfigError(
                "model.sft.learning_rate", f"the loss is {float(loss.detach())} at step {step + 1}; lower it"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        pace.update(step + 1, f"loss {losses[-1]:.3f}")
    model.eval()
    return losses


@torch.no_grad()
def next_token_loss(model: PreTrainedModel, rows: Sequence[list[int]], *, pad: int, batch_size: int = 64) -> float:
    """The mean loss over the tokens of all rows but their first, nats a token."""
    model.eval()
    total = tokens = 0.0
    for start in range(0, len(rows), batch_size):
        batch = list(rows[start : start + batch_size])
        count = sum(len(row) - 1 for row in batch)
        total += float(model(**_batch(batch, pad, model.device)).loss) * count
        tokens += count
    return total / tokens


def _batch(rows: Sequence[list[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Rows filled up on the right to one width, ``[B, T]``, and their labels, which leave padding out."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)}
