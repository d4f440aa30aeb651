"""Sequence log-probabilities of completions, and the places where a model is touched to get them.

All are hooks around one forward, so the model runs its own code: any architecture, LoRA, gradient
checkpointing and data-parallel wrappers work unchanged.

* ``completion_head`` hands only the positions that predict completion tokens to the output layer:
  prompt and padding never meet the vocabulary.
* ``input_offset`` adds an offset to the output of the embedding layer (the space in which WDPO moves
  inputs, arXiv 2502.01930 appendix F).
* ``output_offset`` adds an offset to the weights of the output layer (which logits-SAM moves, arXiv 2603.18258).

Where attention takes a block mask, the forward runs over packed rows (``robustalign.policies.packing``): shared
prompts once, no padding. Elsewhere it runs over the padded rows as they are. The numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from robustalign.policies.layout import trust_of
from robustalign.policies.packing import Rows, pack, trees_of
from robustalign.policies.vocabulary import target_logps
from robustalign.progress import paced

PACKED_WIDTH = 64
TREE_WIDTH = 512
"""Positions of a tree beyond which its replies are dealt to several: attention over it grows with its square."""
TOKENS_A_PASS = 2048
"""Tokens of a forward that only scores on a CPU: the activations of more do not stay in its caches."""


@contextmanager
def completion_head(model: nn.Module, predictors: Tensor | tuple[Tensor, Tensor]) -> Iterator[None]:
    """While the block runs, the output layer gets ``hidden[predictors]`` only: logits are ``[1, K, V]``.

    ``predictors`` are the K positions whose next token counts: ``[R,T]`` bool, or their rows and columns.
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
    """While the block runs, ``offset [R,T,D]`` is added to the embedding layer's output; None changes nothing.

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


@contextmanager
def output_offset(model: nn.Module, offset: Tensor | None) -> Iterator[None]:
    """While the block runs, the output layer has the weights ``W + offset``, ``[V,D]``; None changes nothing."""
    if offset is None:
        yield
        return
    head = unwrapped(model).get_output_embeddings()
    moved = offset.to(next(head.parameters()).dtype)
    handle = head.register_forward_hook(lambda _m, inputs, output: output + nn.functional.linear(inputs[0], moved))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def graph_from_output(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Under ``no_grad``, start the graph of a forward at the output of the output layer.

    Yields:
        A list that gets, for each forward, the input ``x`` of the layer and its output ``y``, a leaf. The gradient of a
        loss with respect to the layer's weights is ``(d loss / d y)^T x``.
    """
    tensors: list[tuple[Tensor, Tensor]] = []

    def begin(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        tensors.append((inputs[0], output.detach().requires_grad_()))
        torch.set_grad_enabled(True)  # stays on until the enclosing no_grad ends
        return tensors[-1][1]

    handle = unwrapped(model).get_output_embeddings().register_forward_hook(begin)
    try:
        yield tensors
    finally:
        handle.remove()


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The language model inside a data-parallel wrapper."""
    inner: Any = model
    while hasattr(inner, "module"):
        inner = inner.module
    return inner


@torch.no_grad()
def embedded(model: nn.Module, ids: Tensor) -> Tensor:
    """The embedded tokens ``[R,T,D]`` of ``ids [R,T]``, without gradient; ranks that share parameters all ask."""
    inner: Any = unwrapped(model)
    spread = isinstance(inner, FSDPModule)
    if spread:
        inner.unshard()
    embeddings: Tensor = inner.get_input_embeddings()(ids)
    if spread:
        inner.reshard()
    return embeddings


def token_logps(model: nn.Module, rows: Rows, offset: Tensor | None = None, output: Tensor | None = None) -> Tensor:
    """``log pi(token | before)`` of every completion token, fp32 at least, as ``[K]`` in row order.

    ``offset [R,T,D]`` moves the embedded inputs; rows that share a prompt must agree there, and their gradient with
    respect to it appears at one of them. ``output [V,D]`` moves the output layer's weights.
    Equation: the factors of pi_theta(a|s) in arXiv 2502.01930, section 3.
    """
    packed = takes_block_masks(model, rows)
    with output_offset(model, output):
        return _token_logps(model, rows, offset, packed)


def _token_logps(
    model: nn.Module, rows: Rows, offset: Tensor | None, packed: bool, width: int = PACKED_WIDTH
) -> Tensor:
    predictors: Tensor | tuple[Tensor, Tensor]
    if packed:
        layout = pack(rows, width)
        predictors, visible = layout.predictors, layout.visible
        if _attention(model) == "eager":  # adds its mask
            dtype = _embeddings(model).dtype
            visible = torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        inputs = {
            "input_ids": rows.ids.flatten()[layout.source],
            "attention_mask": visible,
            "position_ids": layout.position,
        }
        offset = None if offset is None else offset.flatten(0, 1)[layout.source]
    else:
        predictors = rows.predictors
        inputs = {"input_ids": rows.ids, "attention_mask": rows.attention.long()}
    with completion_head(model, predictors), input_offset(model, offset):
        logits = model(**inputs, use_cache=False).logits[0]
    targets = rows.ids[rows.completion]
    return target_logps(at_least_fp32(logits), targets)


def takes_block_masks(model: nn.Module, rows: Rows | None = None) -> bool:
    """Whether packed rows give the numbers of padded rows with this model (``robustalign.policies.layout``).

    The architecture's config decides, then a comparison, which is repeated whenever a tree is wider than all before.

    Args:
        rows: the rows to be packed; default: a few short ones.
    """
    inner, attention = unwrapped(model), _attention(model)
    trust = trust_of(inner, attention)
    rows = _short_rows(inner) if rows is None else rows
    trees, widths = trees_of(rows)
    widest = max(range(len(trees)), key=widths.__getitem__)
    line = max(PACKED_WIDTH, widths[widest])
    sharded = isinstance(inner, FSDPModule)  # its forward needs all ranks
    if not trust.known(line) and not sharded:
        copies = max(2, math.ceil(PACKED_WIDTH / max(1, widths[widest])))
        trust.learn(line, _packs(model, rows.only(trees[widest]), copies))
    return line <= trust.width


def _embeddings(model: nn.Module) -> Tensor:
    table = unwrapped(model).get_input_embeddings().weight
    assert isinstance(table, Tensor)
    return table


def _attention(model: nn.Module) -> str:
    return str(getattr(unwrapped(model).config, "_attn_implementation", None))


def _short_rows(model: nn.Module) -> Rows:
    embeddings = _embeddings(model)
    token = iter((torch.arange(32) * 7919 % embeddings.shape[0]).tolist())
    prompts = [[next(token) for _ in range(n)] for n in (5, 3)]
    completions = [[next(token) for _ in range(n)] for n in (4, 1, 2, 5)]
    return Rows.collate(prompts * 2, completions, pad=0, tree=[0, 1, 0, 1]).to(embeddings.device)


@torch.no_grad()
def _packs(model: nn.Module, tree: Rows, copies: int) -> bool:
    """Whether copies of one tree, packed behind each other, have the numbers of padded rows, up to rounding (of the
    forward, and of a logarithm in fp32 relative to its size) and to the noise between padded rows and a row alone."""
    count = len(tree.ids)
    several = Rows(
        tree.ids.repeat(copies, 1),
        tree.attention.repeat(copies, 1),
        tree.completion.repeat(copies, 1),
        torch.arange(copies, device=tree.ids.device).repeat_interleave(count),
    )
    try:
        packed = _token_logps(model, several, None, True, width=copies * trees_of(tree)[1][0])
        padded = _token_logps(model, tree, None, False)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    alone = _token_logps(model, tree.only([0]), None, False)
    forward, logarithm = torch.finfo(forward_dtype(model)).eps, torch.finfo(torch.float32).eps * max(1.0, _rms(padded))
    noise = max(16 * forward, 16 * logarithm, 4 * _rms(alone - padded[: len(alone)]))
    return all(_rms(part - padded) <= noise for part in packed.view(copies, -1))


def _rms(values: Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())


def forward_dtype(model: nn.Module) -> torch.dtype:
    """The precision of the forward: that of autocast where it is on, else the parameters'."""
    parameter = next(p for p in model.parameters() if p.is_floating_point())
    device = parameter.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def at_least_fp32(tensor: Tensor) -> Tensor:
    """fp32, or fp64 where the model computes in it."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def sequence_logps(model: nn.Module, rows: Rows, offset: Tensor | None = None, output: Tensor | None = None) -> Tensor:
    """``log pi(completion | prompt)`` of each row, fp32 at least, ``[R]``: sums of ``token_logps``."""
    tokens = token_logps(model, rows, offset, output)
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

    Rows of one prompt, or of like length, share a batch of at most ``batch_size``; neither order nor batch size changes
    the numbers beyond rounding.
    """
    shared = takes_block_masks(model)
    order = sorted(
        range(len(prompts)),
        key=lambda i: (
            (len(prompts[i]), hash(tuple(prompts[i]))) if shared else (len(prompts[i]) + len(completions[i]),)
        ),
        reverse=True,  # the longest first, so that one comparison covers the others
    )
    out = torch.empty(len(prompts))
    device = next(model.parameters()).device
    width = TOKENS_A_PASS if device.type == "cpu" else None
    for chosen in paced(_batches(order, prompts, completions, shared, batch_size, width), progress):
        rows = Rows.collate([prompts[i] for i in chosen], [completions[i] for i in chosen], pad).to(device)
        if shared:
            rows = replace(rows, tree=_trees([prompts[i] for i in chosen], [completions[i] for i in chosen]))
        out[chosen] = sequence_logps(model, rows).float().cpu()
    return out


def _batches(
    order: Sequence[int],
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    shared: bool,
    size: int,
    tokens: int | None,
) -> list[list[int]]:
    """``order`` in batches of at most ``size`` rows and about so many ``tokens``; ``shared`` prompts count once."""
    batches: list[list[int]] = []
    total = 0
    for row in order:
        known = shared and bool(batches) and prompts[batches[-1][-1]] == prompts[row]
        total += len(completions[row]) + (0 if known else len(prompts[row]))
        if not batches or len(batches[-1]) == size or (tokens is not None and total > tokens):
            batches.append([])
            total = len(prompts[row]) + len(completions[row])
        batches[-1].append(row)
    return batches


def _trees(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
    """Numbers of trees ``[R]`` no wider than TREE_WIDTH or two replies; rows of one prompt follow each other."""
    numbers, width, replies = [0], 0, 0
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        fresh = row == 0 or prompt != prompts[row - 1]
        full = replies >= 2 and width + len(completion) - 1 > TREE_WIDTH
        if fresh or full:
            width, replies = len(prompt), 0
        numbers.append(numbers[-1] + int(full and not fresh))
        width, replies = width + len(completion) - 1, replies + 1
    return torch.tensor(numbers[1:])
