"""The redescending loss of Hölder-DPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class HolderLoss(PairLoss):
    """Hölder-DPO in its density-power form: l = -(1 + gamma) p^gamma + gamma p^(1 + gamma), p = sigmoid(beta h)
    (Fujisawa et al., arXiv 2505.17859). Its slope, -gamma (1 + gamma) beta p^gamma (1 - p)^2, vanishes for pairs the
    policy contradicts strongly, so outliers stop pulling.

    Args:
        beta: strength of the pull towards the reference, > 0.
        gamma: how readily a pair is taken for an outlier, > 0; as gamma -> 0 the slope over gamma approaches
            -beta (1 - p)^2.

    Example:
        >>> import torch
        >>> HolderLoss(beta=0.1, gamma=1.0).losses(torch.tensor([0.0]))  # -2 p + p^2 at p = 1/2
        tensor([-0.7500])
    """

    name: ClassVar[str] = "holder"
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))
    gamma: float = field(metadata=inside("(0, inf)", "use the sigmoid loss for no outlier rejection"))

    def _losses(self, terms: PairTerms) -> Tensor:
        power = (self.gamma * logsigmoid(self.beta * terms.margin)).exp()
        return power * (self.gamma * (self.beta * terms.margin).sigmoid() - (1 + self.gamma))
