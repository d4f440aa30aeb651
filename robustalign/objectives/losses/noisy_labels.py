"""Logistic losses for labels that are flipped at a known rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class _FlippedLabels(PairLoss):
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))
    flip_rate: float = field(metadata=inside("[0, 0.5)", "from a half on labels say nothing"))


@dataclass(frozen=True)
class ConservativeLoss(_FlippedLabels):
    """cDPO: l = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h) (Mitchell, 2023, "A note on DPO with noisy
    preferences"): cross-entropy with smoothed labels. Its mean is minimal at sigmoid(beta h) = 1 - e.

    Args:
        beta: strength of the pull towards the reference, > 0.
        flip_rate: e, the share of labels believed to be wrong, in [0, 0.5).

    Example:
        >>> import torch
        >>> ConservativeLoss(beta=0.1, flip_rate=0.1).losses(torch.tensor([0.0, 10.0]))  # + 0.1 beta h
        tensor([0.6931, 0.4133])
    """

    name: ClassVar[str] = "conservative"

    def _losses(self, terms: PairTerms) -> Tensor:
        logits = self.beta * terms.margin
        if self.flip_rate == 0:
            return -logsigmoid(logits)
        return -(1 - self.flip_rate) * logsigmoid(logits) - self.flip_rate * logsigmoid(-logits)


@dataclass(frozen=True)
class UnbiasedLoss(_FlippedLabels):
    """rDPO: l = [-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)] / (1 - 2 e) (Chowdhury et al., arXiv
    2403.00409). Its mean over labels flipped at rate e is the DPO loss of the true label.

    Not bounded below: a margin of +inf has the loss -inf. Not to be confused with the group-robust ``rdpo``.

    Args:
        beta: strength of the pull towards the reference, > 0.
        flip_rate: e, the rate at which labels were flipped, in [0, 0.5).

    Example:
        >>> import torch
        >>> UnbiasedLoss(beta=0.1, flip_rate=0.1).losses(torch.tensor([0.0, 10.0]))  # - 0.1 beta h / 0.8
        tensor([0.6931, 0.1883])
    """

    name: ClassVar[str] = "unbiased"

    def _losses(self, terms: PairTerms) -> Tensor:
        logits = self.beta * terms.margin
        if self.flip_rate == 0:
            return -logsigmoid(logits)
        # log sigmoid(-x) = log sigmoid(x) - x
        return -logsigmoid(logits) - self.flip_rate / (1 - 2 * self.flip_rate) * logits
