"""The reference-free, length-normalised loss of SimPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss, column
from robustalign.objectives.terms import PairTerms


@dataclass(frozen=True)
class SimPOLoss(PairLoss):
    """SimPO: l = -log sigmoid(beta [log pi(chosen) / |chosen| - log pi(rejected) / |rejected|] - gamma)
    (Meng et al., arXiv 2405.14734, Eq. 6). Uses no reference.

    Args:
        beta: scale of the log-probabilities per token, > 0; 2 to 10 in the paper.
        gamma_beta_ratio: the target margin gamma over beta, >= 0, in nats per token, as in the authors' code.

    Example:
        >>> import torch
        >>> from robustalign.objectives.terms import PairTerms
        >>> ones, zeros = torch.ones(1), torch.zeros(1)
        >>> lengths = {"chosen_length": ones, "rejected_length": ones}
        >>> terms = PairTerms(margin=zeros, chosen_logp=-ones, rejected_logp=-2 * ones, **lengths)
        >>> SimPOLoss(beta=2.0, gamma_beta_ratio=0.5).losses(terms)  # -log sigmoid(2 - 1)
        tensor([0.3133])
    """

    name: ClassVar[str] = "simpo"
    needs: ClassVar[frozenset[str]] = frozenset({"chosen_logp", "rejected_logp", "chosen_length", "rejected_length"})
    beta: float = field(metadata=inside("(0, inf)", "SimPO uses 2 to 10"))
    gamma_beta_ratio: float = field(metadata=inside("[0, inf)", "SimPO uses 0 to 1"))

    def _losses(self, terms: PairTerms) -> Tensor:
        chosen = column(terms.chosen_logp) / column(terms.chosen_length)
        rejected = column(terms.rejected_logp) / column(terms.rejected_length)
        return -logsigmoid(self.beta * (chosen - rejected - self.gamma_beta_ratio))
