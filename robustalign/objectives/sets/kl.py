"""The Kullback-Leibler ball: KLDPO, its released form, and Dr. DPO as its optimistic twin."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from robustalign.bounds import inside, one_of
from robustalign.objectives.ambiguity_set import Knob, WorstLaw, stand_in
from robustalign.objectives.solve import DIRECTIONS, kl_divergence, solve_temperature, tilt
from robustalign.objectives.streaming import StreamingSet


@dataclass(kw_only=True, eq=False)
class KLBall(StreamingSet):
    """Laws P with KL(P || Q) <= radius: p_i proportional to q_i exp(l_i / tau) (arXiv 2502.01930, Prop. 2, Alg. 2).

    Give the ball by its radius, and the temperature tau is solved for every batch, or by the temperature as in
    Algorithm 2, and the divergence follows. At a fixed temperature the gradient is that of the penalised form
    tau log E_Q exp(l / tau) = sup over P of E_P[l] - tau KL(P || Q). The dual variable is tau.

    Args:
        radius: nats, >= 0; 0 is the nominal law, log N or more puts all mass on the largest of N losses.
        temperature: > 0, inf allowed (the nominal law); exactly one of radius and temperature.
        direction: ``pessimistic`` (KLDPO: large losses count more, against shift) or ``optimistic`` (small losses
            count more, against label noise): Dr. DPO, arXiv 2407.07880, whose beta' is the temperature.
        normalized: False leaves the weights exp((l_i - mean l) / tau) undivided, as the authors' code does.
        clamp: largest weight, > 0, null for none; 10 in the authors' code. Needs a temperature.
        streaming: True carries the temperature and the normaliser over from recent batches (:class:`StreamingSet`).
        memory: pairs after which a remembered loss counts for 1 / e.

    Example:
        >>> import torch
        >>> KLBall(temperature=1.0).worst_case(torch.tensor([0.0, 1.0])).weights  # 1 : e
        tensor([0.5379, 1.4621])
    """

    name: ClassVar[str] = "kl"
    knobs: ClassVar[tuple[Knob, ...]] = (
        Knob("radius", "nats"),
        Knob("temperature", "unit of the loss", stronger=-1, nominal=math.inf),
    )
    radius: float | None = field(default=None, metadata=inside("[0, inf)", "give nats"))
    temperature: float | None = field(default=None, metadata=inside("(0, inf]", "use a large value for DPO"))
    direction: str = field(default="pessimistic", metadata=one_of(DIRECTIONS))
    normalized: bool = True
    clamp: float | None = field(default=None, metadata=inside("(0, inf)", "use null for no clamp"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.radius is None) == (self.temperature is None):
            raise ValueError("radius: give exactly one of radius and temperature; set the other to null")
        if self.temperature is None and not (self.normalized and self.clamp is None):
            raise ValueError("radius: weights that are clamped or unnormalised leave the ball; give a temperature")
        if self.streaming and not (self.normalized and self.clamp is None):
            raise ValueError("streaming: weights that are clamped or unnormalised have no running normaliser")

    def degenerate_radius(self, n: int) -> float | None:
        return math.log(n) if self.radius is not None else None

    def _law_of(self, losses: Tensor, prior: Tensor) -> WorstLaw:
        scores = DIRECTIONS[self.direction] * losses
        if self.temperature is None:
            return self._at_radius(scores, prior)
        if self.normalized and self.clamp is None:
            law = tilt(scores, prior, self.temperature)
            return WorstLaw(probabilities=law, dual=self.temperature, divergence=kl_divergence(law, prior))
        return self._centred(scores, prior, self.temperature)

    def _at_radius(self, scores: Tensor, prior: Tensor) -> WorstLaw:
        assert self.radius is not None
        # Infinite losses enter through their limit, in which any finite temperature would be infinite too.
        limit = stand_in(scores)
        temperature = solve_temperature(limit, prior, self.radius)
        law = tilt(limit, prior, temperature)
        return WorstLaw(probabilities=law, dual=temperature, divergence=kl_divergence(law, prior))

    def _centred(self, scores: Tensor, prior: Tensor, temperature: float) -> WorstLaw:
        """Weights exp((l_i - mean l) / tau), cut at ``clamp``, divided by their mean only if ``normalized``."""
        mean = (prior * scores).sum()
        if torch.isinf(mean):
            ratios = tilt(scores, prior, temperature) / prior
        else:
            ratios = torch.exp((scores - mean) / temperature)
        clamped = 0.0
        if self.clamp is not None:
            clamped = float((prior * (ratios > self.clamp)).sum())
            ratios = ratios.clamp(max=self.clamp)
        law = (prior * ratios).masked_fill(prior == 0, 0.0)
        # Undivided weights may overflow where the tilt itself does not.
        normal = tilt(scores, prior, temperature) if self.clamp is None else law / law.sum()
        return WorstLaw(
            probabilities=normal if self.normalized else law,
            dual=temperature,
            divergence=kl_divergence(normal, prior),
            clamped=clamped,
        )
