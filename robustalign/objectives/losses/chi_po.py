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
    """

    name: ClassVar[str] = "chi_po"
    needs: ClassVar[frozenset[str]] = frozenset({"chosen_logratio", "rejected_logratio"})
    beta: float = field(metadata=inside("(0, inf)", "chi-PO multiplies it with log-ratio + ratio"))
    reward_bound: float = field(metadata=inside("(0, inf)", "it clips the reward gap at twice its value"))

    def _losses(self, terms: PairTerms) -> Tensor:
        chosen, rejected = _phi(column(terms.chosen_logratio)), _phi(column(terms.rejected_logratio))
        bound = 2 * self.reward_bound
        return -logsigmoid((self.beta * (chosen - rejected)).clamp(-bound, bound))


def _phi(logratio: Tensor) -> Tensor:
    """z + log z at z = exp(logratio); z stops growing at the root of the largest number, far beyond any clip."""
    return logratio.clamp(max=math.log(torch.finfo(logratio.dtype).max) / 2).exp() + logratio
