"""How far log-probabilities, and the losses made of them, are off because a forward rounds.

The same row has another log-probability in another batch: kernels sum in another order. Between the reference, scored
once, and the policy at the first step this is all that separates them.

The standard deviation of a row of T tokens with the log-probability L is taken as |L| (1.5 eps / sqrt(T) + eps'):
errors of its tokens, made with the forward's precision eps, add up like a random walk, and the sum of T tokens and the
stored reference are rounded at eps'. Measured on SmolLM2-135M and on random models (fp32 and bf16, rows of 8 to 180
tokens, packed and alone): between .1 and 1 of that.
"""

from __future__ import annotations

import torch
from torch import Tensor

PER_TOKEN = 1.5
DEVIATIONS = 3.0
"""A bound in standard deviations: one normal number in 370 lies beyond it."""


def logp_rounding(logps: Tensor, tokens: Tensor, forward: torch.dtype, stored: torch.dtype) -> Tensor:
    """How far ``logps [R]`` may be from those of a reference that agrees with the policy; nats, no gradient.

    Args:
        logps: of rows of ``tokens [R]`` tokens.
        forward: the precision of the forward that they come from.
        stored: that of the reference's log-probabilities.
    """
    sums = max(torch.finfo(logps.dtype).eps, torch.finfo(stored).eps)
    per_token = PER_TOKEN * torch.finfo(forward).eps / tokens.to(logps).sqrt()
    return DEVIATIONS * logps.detach().abs() * (per_token + sums)


def of_pairs(rows: Tensor) -> Tensor:
    """Independent errors of two rows ``[2B]`` as that of their pair, ``[B]``."""
    chosen, rejected = rows.chunk(2)
    return torch.hypot(chosen, rejected)
