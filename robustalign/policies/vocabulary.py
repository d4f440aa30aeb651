"""Log-probabilities of given tokens, in the memory of the logits.

The vocabulary is the widest thing in a step. ``log_softmax`` keeps a second tensor of the logits' size for the backward
and the backward makes a third; here the probabilities take the logits' place, and the gradient theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CACHED = 1 << 17
"""Elements of a block of rows that a CPU works on at a time, so that it stays in its cache."""


def target_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """``log softmax(logits)[k, targets[k]]``, ``[K]``, twice differentiable; it overwrites ``logits``.

    Args:
        logits: ``[K, V]``, fp32 or fp64; the probabilities are written over them.
        targets: ``[K]`` int64.
    """
    logps: Tensor = _TargetLogps.apply(logits, targets)
    return logps


class _TargetLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        size = len(logits) if logits.is_cuda else max(1, CACHED // logits.shape[1])
        blocks = zip(logits.detach().split(size), targets.split(size), strict=True)
        logps = torch.cat([_to_probabilities(block, of_block) for block, of_block in blocks])
        ctx.save_for_backward(logits, targets)
        # ``logits`` holds the probabilities now and stays the input's node in the graph: second derivatives use both.
        return logps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: the probabilities must not be overwritten
            return _LogitGradient.apply(gradient, logits, targets), None
        return _over(logits.detach(), gradient, targets), None


class _LogitGradient(torch.autograd.Function):
    """g (1[v = target] - p_v) as a function of g and, through p, of the logits."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, logits.detach(), targets)
        return _over(logits.detach().clone(), gradient, targets)

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient, probabilities, targets = ctx.saved_tensors
        mean = (probabilities * direction).sum(-1, keepdim=True)
        logits = -gradient[:, None] * probabilities * (direction - mean)
        return _at(direction, targets) - mean[:, 0], logits, None


def _to_probabilities(block: Tensor, targets: Tensor) -> Tensor:
    """Turn logits ``[R, V]`` into probabilities; the log-probabilities of the targets ``[R]``."""
    picked_logits = _at(block.sub_(block.amax(-1, keepdim=True)), targets)
    total = block.exp_().sum(-1, keepdim=True)
    block.div_(total)
    return picked_logits - total.log()[:, 0]


def _over(probabilities: Tensor, gradient: Tensor, targets: Tensor) -> Tensor:
    """Turn probabilities ``[K, V]`` into the gradient with respect to the logits."""
    probabilities.mul_(-gradient[:, None])
    rows = torch.arange(len(targets), device=targets.device)
    probabilities[rows, targets] += gradient
    return probabilities


def _at(table: Tensor, columns: Tensor) -> Tensor:
    return table.gather(1, columns[:, None])[:, 0]
