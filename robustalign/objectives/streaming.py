"""Worst laws over more pairs than a batch holds.

The worst case over the N pairs of a batch is on average below that of the population they come from, and the same
radius means something else for every N (Levy et al., arXiv 2010.05893). A streaming set therefore remembers recent
losses, without gradient, and finds its dual variable (temperature and normaliser, quantile, eta) for the memory and
the batch together. The worst law's density dP/dQ at that dual then weighs the pairs of the batch:

- KL: exp(l / tau - log Z), chi-square: (l - eta)_+ / E (l - eta)_+, CVaR: 1 / alpha above eta;
- the sum over an epoch, not over a batch, comes to one per pair: a batch of hard pairs counts for more, and
  the mean of the values estimates the population's worst case instead of the batch's;
- the batch is part of the pool, so that its weights stay bounded and the first step is the exact worst case of its
  own pairs.

Old losses fade as exp(-age / memory), the age counted in pairs, so that the pool follows the policy as it learns and
does not depend on how many steps the pairs came in. A longer memory is less biased for a policy that stands still and
staler for one that moves.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from robustalign.objectives.ambiguity_set import AmbiguitySet, WorstLaw

FORGOTTEN = 5.0
"""Age over memory beyond which a loss is dropped, at a weight of exp(-5) = 0.7 %."""


class LossMemory:
    """Recent losses that fade with age; all tensors fp64 on the CPU.

    Args:
        memory: pairs after which a loss counts for 1 / e.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._losses, self._weights, self._ages = (torch.zeros(0, dtype=torch.float64) for _ in range(3))

    def pool(self, losses: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Remembered losses followed by these, ``[M + N]``, and their nominal law, which sums to 1."""
        faded = self._weights * torch.exp(-self._ages / self.memory)
        weights = torch.cat([faded, prior * int((prior > 0).sum())])
        return torch.cat([self._losses, losses]), weights / weights.sum()

    def remember(self, losses: Tensor, prior: Tensor) -> None:
        """Add these losses; pairs of prior weight 0 leave no trace."""
        inside = prior > 0
        count = int(inside.sum())
        ages = torch.cat([self._ages, torch.zeros(count, dtype=torch.float64)]) + count
        kept = ages <= FORGOTTEN * self.memory
        self._losses = torch.cat([self._losses, losses[inside]])[kept]
        self._weights = torch.cat([self._weights, prior[inside] * count])[kept]
        self._ages = ages[kept]

    def state_dict(self) -> dict[str, Tensor]:
        """``losses``, ``weights`` and ``ages``, each ``[M]``."""
        return {"losses": self._losses.clone(), "weights": self._weights.clone(), "ages": self._ages.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._losses, self._weights, self._ages = (
            state[name].to("cpu", torch.float64).clone() for name in ("losses", "weights", "ages")
        )


@dataclass(kw_only=True, eq=False)
class StreamingSet(AmbiguitySet):
    """An ambiguity set that may carry its dual variable from batch to batch; see the module's text.

    With ``streaming`` the weights have mean 1 over time, not in a batch; ``dual`` and ``divergence`` are those of the
    pool, ``ess`` is the batch's. :meth:`worst_case` answers for the pool without remembering the batch, :meth:`step`
    remembers it.

    Args:
        streaming: True pools each batch with the memory of earlier ones.
        memory: pairs after which a remembered loss counts for 1 / e, >= 1.
    """

    streaming: bool = False
    memory: int = 128

    def __post_init__(self) -> None:
        if not self.memory >= 1:
            raise ValueError(f"memory: {self.memory} must be >= 1 pair; use streaming: false for none")
        self._memory = LossMemory(self.memory)

    def pooled_pairs(self, n: int) -> int:
        """Pairs that a batch of ``n`` is judged with once the memory is full."""
        return n + self.memory if self.streaming else n

    def check(self, n: int) -> None:
        super().check(self.pooled_pairs(n))

    def state_dict(self) -> dict[str, Tensor]:
        return self._memory.state_dict() if self.streaming else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.streaming:
            self._memory.load_state_dict(state)
        else:
            super().load_state_dict(state)

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        if not self.streaming:
            return self._law_of(losses, prior)
        pooled_losses, pooled_prior = self._memory.pool(losses, prior)
        worst = self._law_of(pooled_losses, pooled_prior)
        density = (worst.probabilities / pooled_prior)[-len(losses) :]
        law = (prior * density).masked_fill(prior == 0, 0.0)
        return WorstLaw(probabilities=law, dual=worst.dual, divergence=worst.divergence)

    def _learn(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        law = self._worst_law(losses, prior, group)
        if self.streaming:
            self._memory.remember(losses, prior)
        return law

    @abstractmethod
    def _law_of(self, losses: Tensor, prior: Tensor) -> WorstLaw:
        """The worst law of fp64 losses ``[N]`` near ``prior`` ``[N]``, which sums to 1."""
