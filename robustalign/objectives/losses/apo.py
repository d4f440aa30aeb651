"""Anchored preference optimisation: chosen and rejected are each held against the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, sigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss, column
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class APOZeroLoss(PairLoss):
    """APO-zero: l = sigmoid(-beta r_chosen) + sigmoid(beta r_rejected) with the log-ratios r (D'Oosterlinck et al.,
    arXiv 2408.06266, Eq. 7): chosen more likely, rejected less; for chosen better than what the model writes.

    Args:
        beta: scale of the log-ratios, > 0.

    Example:
        >>> import torch
        >>> from robustalign.objectives.terms import PairTerms
        >>> ten, zero = torch.full((1,), 10.0), torch.zeros(1)
        >>> terms = PairTerms(margin=ten, chosen_logratio=ten, rejected_logratio=zero)
        >>> APOZeroLoss(beta=0.1).losses(terms)  # sigmoid(-1) + 1/2
        tensor([0.7689])
    """

    name: ClassVar[str] = "apo_zero"
    needs: ClassVar[frozenset[str]] = frozenset({"chosen_logratio", "rejected_logratio"})
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))

    def _losses(self, terms: PairTerms) -> Tensor:
        chosen, rejected = column(terms.chosen_logratio), column(terms.rejected_logratio)
        return sigmoid(-self.beta * chosen) + sigmoid(self.beta * rejected)


@dataclass(frozen=True)
class APODownLoss(PairLoss):
    """APO-down: l = sigmoid(beta r_chosen) + sigmoid(-beta [r_chosen - r_rejected]) with the log-ratios r
    (D'Oosterlinck et al., arXiv 2408.06266, Eq. 8): both less likely, rejected more so; for chosen worse than what
    the model writes.

    Args:
        beta: scale of the log-ratios, > 0.

    Example:
        >>> import torch
        >>> from robustalign.objectives.terms import PairTerms
        >>> ten, zero = torch.full((1,), 10.0), torch.zeros(1)
        >>> terms = PairTerms(margin=ten, chosen_logratio=ten, rejected_logratio=zero)
        >>> APODownLoss(beta=0.1).losses(terms)  # sigmoid(1) + sigmoid(-1)
        tensor([1.])
    """

    name: ClassVar[str] = "apo_down"
    needs: ClassVar[frozenset[str]] = frozenset({"chosen_logratio", "rejected_logratio"})
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))

    def _losses(self, terms: PairTerms) -> Tensor:
        chosen, rejected = column(terms.chosen_logratio), column(terms.rejected_logratio)
        return sigmoid(self.beta * chosen) + sigmoid(-self.beta * (chosen - rejected))
