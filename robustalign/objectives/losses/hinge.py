"""The hinge loss of SLiC on DPO's margin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class HingeLoss(PairLoss):
    """Hinge: l = max(0, 1 - beta h) (RSO, arXiv 2309.06657, after SLiC, arXiv 2305.10425).

    Args:
        beta: inverse of the margin beyond which a pair has no loss, > 0.

    Example:
        >>> import torch
        >>> HingeLoss(beta=0.1).losses(torch.tensor([0.0, 5.0, 20.0]))
        tensor([1.0000, 0.5000, 0.0000])
    """

    name: ClassVar[str] = "hinge"
    beta: float = field(metadata=inside("(0, inf)", "it is the inverse of the margin wanted"))

    def _losses(self, terms: PairTerms) -> Tensor:
        return (1 - self.beta * terms.margin).relu()
