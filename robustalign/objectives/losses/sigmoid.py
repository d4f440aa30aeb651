"""The logistic loss of DPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class SigmoidLoss(PairLoss):
    """DPO: l = -log sigmoid(beta h) (Rafailov et al., arXiv 2305.18290, Eq. 7; arXiv 2502.01930, Eq. 5).

    Args:
        beta: strength of the pull towards the reference, > 0; the margin is multiplied by it.

    Example:
        >>> import torch
        >>> SigmoidLoss(beta=0.1).losses(torch.tensor([0.0, 10.0]))  # log 2, log(1 + 1/e)
        tensor([0.6931, 0.3133])
    """

    name: ClassVar[str] = "sigmoid"
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))

    def _losses(self, terms: PairTerms) -> Tensor:
        return -logsigmoid(self.beta * terms.margin)
