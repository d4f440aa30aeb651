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

Old losses fade as exp(-age / memory), the age counted in pairs, so the pool does not depend on how many steps the
pairs came in. The losses of a policy that learns move faster than that: what is remembered is therefore the shape of
the distribution, each loss as its distance from the level of its time in units of the spread of its time, and the
pool puts it at the level of now. Level and spread are running ones that fade eight times faster than the shape.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustalign.bounds import inside
from robustalign.objectives.ambiguity_set import AmbiguitySet, WorstLaw, weighted_mean

FORGOTTEN = 5.0
"""Age over memory beyond which a loss is dropped, at a weight of exp(-5) = 0.7 %."""
LEVEL_SHARE = 1 / 8
"""Memory of the level and the spread over memory of the shape."""


@dataclass(frozen=True)
class Level:
    """Where the losses are: their weighted count, mean, and sum of squared distances from it."""

    weight: float = 0.0
    mean: float = 0.0
    square: float = 0.0

    @property
    def spread(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.square / self.weight) if self.weight > 0 else 0.0

    def with_losses(self, losses: Tensor, weights: Tensor) -> Level:
        """The level of what was seen and of these finite losses together (pairwise update of moments)."""
        new = float(weights.sum())
        if new == 0:
            return self
        mean = float(weighted_mean(losses, weights / new))
        square = float((weights * (losses - mean).square()).sum())
        total, gap = self.weight + new, mean - self.mean
        return Level(
            weight=total,
            mean=self.mean + gap * new / total,
            square=self.square + square + gap * gap * self.weight * new / total,
        )

    def faded(self, factor: float) -> Level:
        """The same level, counting for less beside what comes."""
        return Level(weight=self.weight * factor, mean=self.mean, square=self.square * factor)


class LossMemory:
    """Recent losses that fade with age; all tensors fp64 on the CPU.

    Args:
        memory: pairs after which a loss counts for 1 / e.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self._shapes, self._weights, self._ages = (torch.zeros(0, dtype=torch.float64) for _ in range(3))
        self._level = Level()

    def pool(self, losses: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Remembered losses at the level of now, then these, ``[M + N]``, and their nominal law, which sums to 1."""
        level = self._level.with_losses(*_finite(losses, prior))
        faded = self._weights * torch.exp(-self._ages / self.memory)
        weights = torch.cat([faded, prior * int((prior > 0).sum())])
        return torch.cat([level.mean + level.spread * self._shapes, losses]), weights / weights.sum()

    def remember(self, losses: Tensor, prior: Tensor) -> None:
        """Add these losses. Pairs of prior weight 0 and infinite losses leave no trace; losses that are all equal, as
        those of a policy that has not left the reference, say something about the level only."""
        losses, weights = _finite(losses, prior)
        level = self._level.with_losses(losses, weights)
        self._level = level.faded(math.exp(-len(losses) / (LEVEL_SHARE * self.memory)))
        self._ages = self._ages + len(losses)
        if level.spread > 0:
            self._shapes = torch.cat([self._shapes, (losses - level.mean) / level.spread])
            self._weights = torch.cat([self._weights, weights])
            self._ages = torch.cat([self._ages, torch.full_like(losses, len(losses))])
        recent = self._ages <= FORGOTTEN * self.memory
        self._shapes, self._weights, self._ages = self._shapes[recent], self._weights[recent], self._ages[recent]

    def state_dict(self) -> dict[str, Tensor]:
        """``shapes``, ``weights`` and ``ages``, each ``[M]``, and ``level`` ``[3]``: weight, mean and square."""
        level = torch.tensor([self._level.weight, self._level.mean, self._level.square], dtype=torch.float64)
        return {
            "shapes": self._shapes.clone(),
            "weights": self._weights.clone(),
            "ages": self._ages.clone(),
            "level": level,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_dict` returned."""
        own = {name: value.to("cpu", torch.float64).clone() for name, value in state.items()}
        self._shapes, self._weights, self._ages = own["shapes"], own["weights"], own["ages"]
        self._level = Level(*own["level"].tolist())


def _finite(losses: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """The finite losses of positive prior weight, and their weights, which have mean 1 over the batch."""
    inside = (prior > 0) & torch.isfinite(losses)
    return losses[inside], prior[inside] * int((prior > 0).sum())


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
    memory: int = field(default=512, metadata=inside("[1, inf)", "use streaming: false for none"))

    def __post_init__(self) -> None:
        super().__post_init__()
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
