"""The squared loss of IPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss, column
from robustalign.objectives.terms import PairTerms

PER_TOKEN = frozenset({"chosen_logratio", "rejected_logratio", "chosen_length", "rejected_length"})


@dataclass(frozen=True)
class IPOLoss(PairLoss):
    """IPO: l = (h - 1 / (2 beta))^2 (Azar et al., arXiv 2310.12036, Eq. 17, their tau is beta).

    Args:
        beta: strength of the pull towards the reference, > 0: the margin aimed at is 1 / (2 beta).
        per_token: True makes h the difference of the two log-ratios per scored token, as TRL does and IPO's authors
            confirmed for their experiments; False sums over tokens, as the equation is written. The same beta means
            different things in the two.

    Example:
        >>> import torch
        >>> IPOLoss(beta=0.1, per_token=False).losses(torch.tensor([0.0, 5.0]))  # (h - 5)^2
        tensor([25.,  0.])
    """

    name: ClassVar[str] = "ipo"
    beta: float = field(metadata=inside("(0, inf)", "it sets the margin 1 / (2 beta)"))
    per_token: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "needs", PER_TOKEN if self.per_token else frozenset())

    def _losses(self, terms: PairTerms) -> Tensor:
        return (self._margin(terms) - 1 / (2 * self.beta)) ** 2

    def _margin(self, terms: PairTerms) -> Tensor:
        if not self.per_token:
            return terms.margin
        chosen = column(terms.chosen_logratio) / column(terms.chosen_length)
        return chosen - column(terms.rejected_logratio) / column(terms.rejected_length)
