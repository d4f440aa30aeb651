"""No ambiguity: the nominal law itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robustalign.objectives.ambiguity_set import AmbiguitySet, WorstLaw


@dataclass(frozen=True, kw_only=True)
class Nominal(AmbiguitySet):
    """The one-point set: the (prior-weighted) mean of the losses, as in plain DPO (arXiv 2502.01930, Eq. 3).

    Example:
        >>> import torch
        >>> Nominal().worst_case(torch.tensor([1.0, 3.0])).value
        tensor(2.)
    """

    name: ClassVar[str] = "nominal"
    couples: ClassVar[bool] = False

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        return WorstLaw(probabilities=prior)
