"""The ball around the output layer's weights: logits-SAM, the cheap relative of WDPO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.linalg import vector_norm

from robustalign.bounds import inside
from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob, WorstLaw


@dataclass(frozen=True, kw_only=True)
class OutputLayerBall(AmbiguitySet):
    """Output weights W + E with a Frobenius norm ||E|| <= radius: logits-SAM (arXiv 2603.18258), sharpness-aware
    minimisation (Foret et al., arXiv 2010.01412, Eqs. 2 and 3) of the layer that makes the logits.

    To first order the worst E is radius G / ||G|| with G = grad_W E_Q[l], and the loss there E_Q[l] + radius ||G||; the
    step takes the gradient at W + E with E held fixed. Where WDPO moves the embedded tokens of each pair, this moves
    one matrix behind the last layer for all pairs. The weights of the pairs stay nominal.

    Args:
        radius: Frobenius norm, >= 0; 0 is DPO.

    Example:
        >>> import torch
        >>> OutputLayerBall(radius=0.1).worst_case(torch.tensor([1.0, 3.0])).value  # it moves a layer, not the weights
        tensor(2.)
    """

    name: ClassVar[str] = "output_layer"
    couples: ClassVar[bool] = False
    acts_on: ClassVar[str] = "output_layer"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("radius", "Frobenius norm"),)
    radius: float = field(metadata=inside("[0, inf)", "0 is DPO"))

    def offset(self, gradient: Tensor) -> Tensor:
        """E ``[V, D]`` from G ``[V, D]``, the gradient of the mean loss of the whole optimiser batch; 0 where G is."""
        norm = vector_norm(gradient)
        return gradient * (self.radius / norm if norm > 0 else 0.0)

    def penalty(self, gradient: Tensor) -> Tensor:
        """What the adversary adds to the nominal loss, to first order: radius ||G||, 0-dim."""
        added: Tensor = self.radius * vector_norm(gradient)
        return added

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        return WorstLaw(probabilities=prior)
