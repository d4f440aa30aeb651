"""DPO whose beta follows the quality of the batch, without the pairs that look unlike the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.ambiguity_set import weighted_mean
from robustalign.objectives.losses.sigmoid import SigmoidLoss
from robustalign.objectives.pair_loss import Adapted, AdaptiveLoss
from robustalign.objectives.terms import PairTerms

SMALLEST_BETA = 1e-3  # as in the authors' code


@dataclass(eq=False)
class BetaDPOLoss(AdaptiveLoss):
    """beta-DPO: l = -log sigmoid(beta_batch h) over the kept pairs (Wu et al., arXiv 2407.08639, Eqs. 7 to 10).

    With running mean m and spread s of the margins, each moved by 1 - ``momentum`` towards the batch's, a share
    ``filtered`` of the pairs is left out, those kept being drawn without replacement in proportion to
    exp(-((h - m) / s)^2 / 2), and beta_batch = beta (1 + ``scaling`` (mean h of the kept - m)), at least 0.001. As in
    the authors' code (junkangwu/beta-DPO), h is not multiplied by beta here, and m and s start at 0.

    The draw is a function of the pair's number and the count of batches, so the order of the pairs does not matter.
    Outside of training, where no batch is known, the loss is that of ``beta``.

    Args:
        beta: its level, > 0.
        scaling: how much beta follows the margins, >= 0, per nat; 0 leaves it constant.
        filtered: share of the pairs left out, in [0, 1).
        momentum: of the running mean and spread, in [0, 1).

    Example:
        >>> import torch
        >>> loss = BetaDPOLoss(beta=0.1, scaling=0.6, filtered=0.2, momentum=0.9)
        >>> loss.losses(torch.tensor([0.0, 10.0]))  # before it has adapted: DPO
        tensor([0.6931, 0.3133])
    """

    name: ClassVar[str] = "beta_dpo"
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))
    scaling: float = field(metadata=inside("[0, inf)", "the paper uses 0.6"))
    filtered: float = field(metadata=inside("[0, 1)"))
    momentum: float = field(metadata=inside("[0, 1)"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mean = self._spread = 0.0
        self._batches = 0

    def _losses(self, terms: PairTerms) -> Tensor:
        return -logsigmoid(self.beta * terms.margin)

    def adapt(self, margin: Tensor, row: Tensor, weight: Tensor | None = None) -> Adapted:
        values = margin.detach().to("cpu", torch.float64)
        prior = torch.ones_like(values) if weight is None else weight.detach().to(values)
        inside = prior > 0
        self._track(values[inside], prior[inside])
        weights = prior * self._keep(values, row.cpu(), inside)
        gap = float((weights * values).sum() / weights.sum()) - self._mean
        beta = max(self.beta * (1 + self.scaling * gap), SMALLEST_BETA)
        return Adapted(SigmoidLoss(beta), weights.to(margin), {"beta": beta, "kept": int((weights > 0).sum())})

    def _track(self, values: Tensor, prior: Tensor) -> None:
        self._batches += 1
        law = prior / prior.sum()
        mean = weighted_mean(values, law)
        spread = (law * (values - mean).square()).sum().sqrt()
        self._mean = self.momentum * self._mean + (1 - self.momentum) * float(mean)
        self._spread = self.momentum * self._spread + (1 - self.momentum) * float(spread)

    def _keep(self, values: Tensor, row: Tensor, inside: Tensor) -> Tensor:
        """1 for the pairs that stay, ``[N]``; the largest log weights + Gumbel noise are a draw without replacement."""
        size = max(1, int((1 - self.filtered) * int(inside.sum())))
        distance = (values - self._mean) / self._spread if self._spread > 0 else torch.zeros_like(values)
        keys = -distance.square() / 2 - torch.log(-torch.log(uniform(row, self._batches)))
        chosen = keys.masked_fill(~inside, -math.inf).topk(size).indices
        return torch.zeros_like(values).index_fill(0, chosen, 1.0)

    def state_dict(self) -> dict[str, Tensor]:
        """``running`` ``[3]``: mean, spread, batches seen."""
        return {"running": torch.tensor([self._mean, self._spread, self._batches], dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._mean, self._spread, batches = state["running"].tolist()
        self._batches = int(batches)


def uniform(keys: Tensor, stream: int) -> Tensor:
    """A number in (0, 1) for each int64 key, ``[N]`` fp64, the same everywhere: splitmix64 (Steele et al., 2014)."""
    mixed = keys + _signed(stream * 0x9E3779B97F4A7C15 % (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ _shifted(mixed, shift)) * _signed(factor)
    return (_shifted(mixed, 11).to(torch.float64) + 0.5) / 2**53


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Logical shift to the right."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits
