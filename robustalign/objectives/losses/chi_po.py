"""The chi-square regularised loss of chi-PO."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss, column
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class ChiPOLoss(PairLoss):
    """chi-PO: l = -log sigmoid(clip_{2R}[beta phi(pi / ref of chosen) - beta phi(pi / ref of rejected)]) with
    phi(z) = z + log z and clip_{2R} to [-2R, 2R] (Huang et al., arXiv 2407.13399): against over-optimisation.

    Args:
        beta: strength of the pull towards the reference, > 0.
        reward_bound: R, the largest reward in size, > 0; a pair beyond 2R has no gradient.

    Example:
        >>> import torch
        >>> from robustalign.objectives.terms import PairTerms
        >>> zero = torch.zeros(1)
        >>> terms = PairTerms(margin=zero, chosen_logratio=zero, rejected_logratio=zero)
        >>> ChiPOLoss(beta=0.1, reward_bound=1.0).losses(terms)  # at the reference: log 2
        tensor([0.6931])
    """

    name: ClassVar[str] = "chi_po"
    needs: ClassVar[frozenset[str]] = frozenset({"chosen_logratio", "rejected_logratio"})
    beta: float = field(metadata=inside("(0, inf)", "chi-PO multiplies it with log-ratio + ratio"))
    reward_bound: float = field(metadata=inside("(0, inf)", "it clips the reward gap at twice its value"))

    def _losses(self, terms: PairTerms) -> Tensor:
        chosen, rejected = column(terms.chosen_logratio), column(terms.rejected_logratio)
        gap = _difference_of_ratios(chosen.double(), rejected.double()) + (chosen - rejected).double()
        bound = 2 * self.reward_bound
        return -logsigmoid((self.beta * gap).clamp(-bound, bound)).to(chosen)


def _difference_of_ratios(chosen: Tensor, rejected: Tensor) -> Tensor:
    """exp(chosen) - exp(rejected) in fp64, where near ratios keep their difference however large they are.

    Ratios stop growing at the root of the largest number, where a difference of one rounding is beyond any clip.
    """
    gap, most = chosen - rejected, math.log(torch.finfo(torch.float64).max) / 2
    if_larger = -torch.expm1(-gap.clamp(min=0)) * chosen.clamp(max=most).exp()
    if_smaller = torch.expm1(gap.clamp(max=0)) * rejected.clamp(max=most).exp()
    return torch.where(gap >= 0, if_larger, if_smaller)
