"""The mixed-logit loss of MixDPO: people differ in how strongly they prefer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from robustalign.bounds import inside
from robustalign.objectives.pair_loss import PairLoss
from robustalign.objectives.terms import PairTerms

REACH, STEP = 8.0, 0.1
"""The trapezoidal rule over [-REACH, REACH] standard deviations; its error falls as exp(-pi^2 / (STEP spread))."""

FAR = 1e6  # beta h beyond which a margin counts as this: an infinite one has no weight to give to a strength


@dataclass(frozen=True)
class MixedLogitLoss(PairLoss):
    """MixDPO: l = -log E[sigmoid(b h)], b log-normal (Imai et al., arXiv 2601.06180). Here b = beta exp(s z - s^2 / 2)
    with z standard normal, so its mean is beta; s is given, where the paper learns it with the policy.

    The slope at h = 0 is -beta / 2 as for dpo. Where the policy contradicts a pair it is flatter, as such a pair may
    come from somebody who hardly cares.

    Args:
        beta: mean strength, > 0; the pull towards the reference.
        spread: s, the standard deviation of log b over people, >= 0; at 0 the loss is dpo's.

    Example:
        >>> import torch
        >>> MixedLogitLoss(beta=0.1, spread=0.0).losses(torch.tensor([0.0, 10.0]))  # log 2, log(1 + 1/e)
        tensor([0.6931, 0.3133])
    """

    name: ClassVar[str] = "mixed_logit"
    beta: float = field(metadata=inside("(0, inf)", "DPO papers use 0.01 to 0.5"))
    spread: float = field(metadata=inside("[0, 2]", "0.5 and 1 are a moderate and a large spread of strengths"))

    def _losses(self, terms: PairTerms) -> Tensor:
        margin = terms.margin.clamp(-FAR / self.beta, FAR / self.beta)
        z = torch.arange(-REACH, REACH + STEP / 2, STEP, device=margin.device, dtype=torch.float64)
        weight = (-(z**2) / 2).log_softmax(0).to(margin.dtype)
        strength = (self.beta * (self.spread * z - self.spread**2 / 2).exp()).to(margin.dtype)
        return -(logsigmoid(margin[..., None] * strength) + weight).logsumexp(-1)
