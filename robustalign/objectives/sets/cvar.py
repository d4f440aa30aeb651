"""Conditional value at risk: the mean of the worst share of the pairs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from robustalign import bounds
from robustalign.objectives.ambiguity_set import Knob, WorstLaw
from robustalign.objectives.streaming import StreamingSet


@dataclass(kw_only=True, eq=False)
class CVaR(StreamingSet):
    """Laws P with dP/dQ <= 1 / alpha: the mean of the worst alpha-share of the losses (Rockafellar and Uryasev,
    2000).

    The dual variable is the quantile eta, with the value inf over eta of eta + E_Q (l - eta)_+ / alpha. Losses above
    eta weigh 1 / alpha; those equal to eta share what is left. The divergence is the largest dP/dQ.

    Args:
        alpha: share in (0, 1]; 1 is the nominal law, 1 / N or less puts all mass on the largest of N losses.
        streaming: True carries the quantile over from recent batches (:class:`StreamingSet`).
        memory: pairs after which a remembered loss counts for 1 / e.

    Example:
        >>> import torch
        >>> CVaR(alpha=0.5).worst_case(torch.tensor([1.0, 2.0, 3.0, 4.0])).value  # (3 + 4) / 2
        tensor(3.5000)
    """

    name: ClassVar[str] = "cvar"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("alpha", "share of the pairs", stronger=-1, nominal=1.0),)
    alpha: float = field(metadata=bounds.inside("(0, 1]", "1 is the mean, 0.1 the worst tenth"))

    def check(self, n: int) -> None:
        n = self.pooled_pairs(n)
        if n > 1 and self.alpha <= 1 / n:
            raise ValueError(
                f"alpha: {self.alpha:g} puts all mass on one of {n} pairs; stay above {1 / n:.4g} or pool more pairs"
            )

    def _law_of(self, losses: Tensor, prior: Tensor) -> WorstLaw:
        law, quantile = worst_share(losses, prior, self.alpha)
        inside = prior > 0
        largest = float((law[inside] / prior[inside]).max())
        return WorstLaw(probabilities=law, dual=quantile, divergence=largest)


def worst_share(losses: Tensor, prior: Tensor, share: float) -> tuple[Tensor, float]:
    """The nominal law given that the loss is among the largest ``share`` of the mass, and the quantile where these
    begin; losses equal to the quantile are taken in part."""
    if share == 1:
        return prior, float(losses.min())
    order = torch.argsort(losses, descending=True, stable=True)
    reached = torch.cumsum(prior[order], 0) >= share
    first = int(reached.to(torch.uint8).argmax()) if bool(reached.any()) else len(order) - 1
    quantile = losses[order[first]]
    above, at = losses > quantile, losses == quantile
    rest = max(share - float(prior[above].sum()), 0.0)
    law = prior * above
    if rest > 0:
        law = law + prior * at * (rest / float(prior[at].sum()))
    return law / law.sum(), float(quantile)
