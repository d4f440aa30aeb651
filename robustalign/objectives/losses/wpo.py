"""DPO weighted by how likely the policy is to write the pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss, column
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class WPOLoss(PairLoss):
    """WPO: l = -w log sigmoid(beta h) (Zhou et al., arXiv 2406.11827, Eq. 2). The weight w of a pair is the product
    over its two completions of exp(mean over tokens of [log pi(y_t) - log sum_v pi(v)^2]), without gradient.

    Args:
        beta: strength of the pull towards the reference, > 0.

    Example:
        >>> import torch
        >>> from robustalign.objectives.terms import PairTerms
        >>> terms = PairTerms(margin=torch.tensor([0.0]), policy_weight=torch.tensor([0.5]))
        >>> WPOLoss(beta=0.1).losses(terms)  # log(2) / 2
        tensor([0.3466])
    """

    name: ClassVar[str] = "wpo"
    needs: ClassVar[frozenset[str]] = frozenset({"policy_weight"})
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))

    def _losses(self, terms: PairTerms) -> Tensor:
        return -column(terms.policy_weight).detach() * logsigmoid(self.beta * terms.margin)
