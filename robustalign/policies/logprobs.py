"""Sequence log-probabilities of completions, and the two places where a model is touched to get them.

Both are hooks around one forward, so the model runs its own code: any architecture, LoRA, gradient
checkpointing and data-parallel wrappers work unchanged.

* ``completion_head`` hands only the positions that predict completion tokens to the output layer:
  prompt and padding never meet the vocabulary.
* ``input_offset`` adds an offset to the output of the embedding layer (the space in which WDPO moves
  inputs, arXiv 2502.01930 appendix F).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Rows:
    """Right-padded rows: ``ids [R,T]`` int64, ``attention [R,T]`` and ``completion [R,T]`` bool."""

    ids: Tensor
    attention: Tensor
    completion: Tensor

    @classmethod
    def collate(cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad: int) -> Rows:
        """Rows of ``prompt + completion``; masks come from lengths, so a pad id that equals EOS is harmless."""
        ids = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
        padded = pad_sequence(ids, batch_first=True, padding_value=pad)
        position = torch.arange(padded.shape[1])
        starts = torch.tensor([len(p) for p in prompts])[:, None]
        ends = torch.tensor([len(row) for row in ids])[:, None]
        attention = position < ends
        return cls(padded, attention, attention & (position >= starts))

    def to(self, device: torch.device | str) -> Rows:
        return Rows(self.ids.to(device), self.attention.to(device), self.completion.to(device))

    @property
    def prompt(self) -> Tensor:
        """``[R,T]`` bool: prompt positions."""
        return self.attention & ~self.completion


@contextmanager
def completion_head(model: nn.Module, predictors: Tensor) -> Iterator[None]:
    """While open, the output layer sees ``hidden[predictors]`` only: logits are ``[1, K, V]``.

    ``predictors [R,T]`` bool marks the K positions whose next token counts.
    """
    head = unwrapped(model).get_output_embeddings()

    def select(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][predictors].unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def input_offset(model: nn.Module, offset: Tensor | None) -> Iterator[None]:
    """While open, ``offset [R,T,D]`` is added to the embedding layer's output; None changes nothing.

    The embedding table still gets its own gradient, tied or not.
    """
    if offset is None:
        yield
        return
    embedding = unwrapped(model).get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _module, _inputs, output: output + offset)
    try:
        yield
    finally:
        handle.remove()


def unwrapped(model: nn.Module) -> nn.Module:
    """The language model inside a data-parallel wrapper."""
    while hasattr(model, "module"):
        model = model.module
    return model


def token_logps(model: nn.Module, rows: Rows, offset: Tensor | None = None) -> Tensor:
    """``log pi(token | before)`` of every completion token, fp32 at least, as ``[K]`` in row order.

    Equation: the factors of pi_theta(a|s) in arXiv 2502.01930, section 3.
    """
    predictors = torch.zeros_like(rows.completion)
    predictors[:, :-1] = rows.completion[:, 1:]
    with completion_head(model, predictors), input_offset(model, offset):
        logits = model(input_ids=rows.ids, attention_mask=rows.attention.long(), use_cache=False).logits[0]
    targets = rows.ids[rows.completion]
    return -nn.functional.cross_entropy(at_least_fp32(logits), targets, reduction="none")


def at_least_fp32(tensor: Tensor) -> Tensor:
    """fp32, or fp64 where the model computes in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def sequence_logps(model: nn.Module, rows: Rows, offset: Tensor | None = None) -> Tensor:
    """``log pi(completion | prompt)`` of each row, fp32 at least, ``[R]``: sums of ``token_logps``."""
    tokens = token_logps(model, rows, offset)
    owner = rows.completion.nonzero()[:, 0]
    return torch.zeros(len(rows.ids), device=tokens.device, dtype=tokens.dtype).index_add(0, owner, tokens)


@torch.no_grad()
def score_completions(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad: int,
    batch_size: int,
    progress: str | None = None,
) -> Tensor:
    """``log pi(completion | prompt)`` of many rows, fp32 ``[len(prompts)]`` on the CPU, in the given order.

    Rows of like length share a batch; neither order nor batch size changes the numbers beyond rounding.
    """
    from tqdm import tqdm

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(completions[i]))
    out = torch.empty(len(prompts))
    device = next(model.parameters()).device
    starts = range(0, len(order), batch_size)
    for start in tqdm(starts, desc=progress, disable=progress is None or None, leave=False):
        chosen = order[start : start + batch_size]
        rows = Rows.collate([prompts[i] for i in chosen], [completions[i] for i in chosen], pad).to(device)
        out[chosen] = sequence_logps(model, rows).float().cpu()
    return out
