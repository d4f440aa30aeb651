"""A chi-square ball around the label of each pair alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss, column
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class DPOProLoss(PairLoss):
    """DPO-PRO: l = max over p of -p log sigmoid(beta h) - (1 - p) log sigmoid(-beta h), where the label probability p
    stays in the ball (p - q)^2 / (q (1 - q)) <= label_radius around the soft label q (Kim et al., arXiv 2509.02709).

    The worst p is q + sqrt(label_radius q (1 - q)) on the side of the larger loss, within [0, 1], and carries no
    gradient. Where both losses are equal, at h = 0 (up to ``margin_rounding``, where the pairs have it), every p in
    the ball is worst and p is the one nearest to 1/2, whose gradient is the smallest. Labels q of 0 and 1 leave no
    ambiguity.

    Args:
        beta: strength of the pull towards the reference, > 0.
        label_radius: chi-square divergence (f(t) = (t - 1)^2) from the soft label, >= 0; 0 is DPO with soft labels.

    Example:
        >>> import torch
        >>> from robustalign.objectives.terms import PairTerms
        >>> terms = PairTerms(margin=torch.tensor([10.0]), soft_label=torch.tensor([0.5]))
        >>> DPOProLoss(beta=0.1, label_radius=0.0).losses(terms)  # an even vote: (0.3133 + 1.3133) / 2
        tensor([0.8133])
    """

    name: ClassVar[str] = "dpo_pro"
    needs: ClassVar[frozenset[str]] = frozenset({"soft_label"})
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))
    label_radius: float = field(metadata=inside("[0, inf)", "0 is DPO with soft labels"))

    def _losses(self, terms: PairTerms) -> Tensor:
        logits = self.beta * terms.margin
        certain = logits.detach()
        if terms.margin_rounding is not None:
            certain = certain.masked_fill(terms.margin.abs() <= terms.margin_rounding, 0.0)
        label = self._worst_label(column(terms.soft_label).to(logits), certain)
        unflipped = -logsigmoid(logits).masked_fill(label == 0, 0.0)
        flipped = -logsigmoid(-logits).masked_fill(label == 1, 0.0)
        return label * unflipped + (1 - label) * flipped

    def _worst_label(self, label: Tensor, logits: Tensor) -> Tensor:
        reach = (self.label_radius * label * (1 - label)).sqrt()
        low, high = (label - reach).clamp(min=0), (label + reach).clamp(max=1)
        nearest = torch.minimum(torch.maximum(torch.full_like(label, 0.5), low), high)
        return torch.where(logits < 0, high, torch.where(logits > 0, low, nearest))
