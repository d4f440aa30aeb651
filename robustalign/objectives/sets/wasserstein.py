"""The Wasserstein ball over embedded pairs: WDPO.

To first order in the radius, sup over W_2(P, Q) <= rho of E_P[l] = E_Q[l] + rho sqrt(E_Q ||g||^2) with the gradient
g_i = grad_x l_i of pair i with respect to its embedded tokens x_i (arXiv 2502.01930, Eq. 7 and Alg. 1, after Gao,
Chen and Kleywegt). Appendix F of that paper and its released code use rho mean ||g_i||^2 instead. The adversary
attains the bound by moving x_i along g_i; the gradient of either penalty is c grad_theta mean ||g_i||^2 with a
scalar c of the whole batch, and grad_theta ||g||^2 = 2 d/dt grad_theta l(x + t g) at t = 0, so first-order gradients
at moved inputs are enough:

- ``moved``: grad_theta of l at x + 2 c g, the inputs as the adversary moves them: one gradient, no subtraction;
- ``forward``: grad l(x) + 2 c [grad l(x + eta g) - grad l(x)] / eta;
- ``central``: grad l(x) + c [grad l(x + eta g) - grad l(x - eta g)] / eta, the mean of both sides for grad l(x);
- ``exact``: the double backward, which needs an attention path with a second derivative.

Everything the batch shares enters through four additive sums, so it can be pooled over micro-batches and ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustalign.bounds import inside, one_of
from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob, WorstLaw

FORMS = ("root", "squared")
GRADIENTS = ("moved", "forward", "central", "exact")
RADIUS_UNITS = ("relative", "absolute")
PROMPTS = ("joint", "per_sequence")
STEP_RATIOS = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 5e-4, torch.float16: 2e-4}
"""Size of a difference step relative to the embeddings, by the dtype of the forward: below it rounding dominates,
above it curvature. fp32 and bf16 were measured on SmolLM2-135M, fp64 and fp16 follow from their precision."""


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """Sums over pairs of what the penalty needs; 0-dim fp64 tensors. Add them up over micro-batches and ranks."""

    gradient_square: Tensor
    """sum_i w_i ||g_i||^2, w_i the prior weight; differentiable when the gradients are."""
    embedding_square: Tensor
    """sum_i w_i ||x_i||^2."""
    elements: Tensor
    """sum_i w_i (scored positions of pair i) D."""
    pairs: Tensor
    """sum_i w_i."""

    def __add__(self, other: InputStatistics) -> InputStatistics:
        return InputStatistics(
            gradient_square=self.gradient_square + other.gradient_square,
            embedding_square=self.embedding_square + other.embedding_square,
            elements=self.elements + other.elements,
            pairs=self.pairs + other.pairs,
        )

    def to_tensor(self) -> Tensor:
        """The four sums as ``[4]`` in the order of the fields, detached: what ranks all-reduce."""
        return torch.stack([self.gradient_square, self.embedding_square, self.elements, self.pairs]).detach()

    @classmethod
    def from_tensor(cls, sums: Tensor) -> InputStatistics:
        """The inverse of :meth:`to_tensor`."""
        return cls(gradient_square=sums[0], embedding_square=sums[1], elements=sums[2], pairs=sums[3])


@dataclass(frozen=True, kw_only=True)
class WassersteinBall(AmbiguitySet):
    """Laws P with W_2(P, Q) <= radius over embedded pairs: WDPO (arXiv 2502.01930, Alg. 1 and App. F).

    The weights of the pairs stay nominal; what moves are the embedded tokens, by the methods below. Tensors over
    tokens have ``2B`` rows, the chosen completions of ``B`` pairs and then their rejected ones, padded on the right.

    Args:
        radius: >= 0; 0 is DPO. Its unit is ``radius_unit``.
        form: ``root`` (Algorithm 1: radius sqrt(mean ||g_i||^2)) or ``squared`` (App. F: radius mean ||g_i||^2).
        gradient: how the penalty's gradient is taken: ``moved``, ``forward``, ``central`` or ``exact``.
        radius_unit: ``relative`` (rms displacement over rms embedding, at all non-padding positions; form root only)
            or ``absolute`` (the paper's rho_o of that form, which does not transfer between models).
        prompt: ``joint`` (chosen and rejected share one prompt, whose gradient is the sum of both: the law of
            Definition 1) or ``per_sequence`` (each row has its own prompt, as in the released code).
        step_ratio: size of the difference step relative to the embeddings, > 0, for forward and central; null
            chooses by dtype.

    Example:
        >>> import torch
        >>> WassersteinBall(radius=0.1).worst_case(torch.tensor([1.0, 3.0])).value  # it moves inputs, not the weights
        tensor(2.)
    """

    name: ClassVar[str] = "wasserstein"
    couples: ClassVar[bool] = False
    acts_on: ClassVar[str] = "inputs"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("radius", "rms of the embeddings"),)
    radius: float = field(metadata=inside("[0, inf)", "0 is DPO"))
    form: str = field(default="root", metadata=one_of(FORMS))
    gradient: str = field(default="moved", metadata=one_of(GRADIENTS))
    radius_unit: str = field(default="relative", metadata=one_of(RADIUS_UNITS))
    prompt: str = field(default="joint", metadata=one_of(PROMPTS))
    step_ratio: float | None = field(default=None, metadata=inside("(0, inf)", "use null to choose by dtype"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "squared" and self.radius_unit == "relative":
            raise ValueError(
                "radius_unit: relative needs form: root; the squared form has no fixed displacement to measure, "
                "it grows with the gradient, so give an absolute radius"
            )
        if self.step_ratio is not None and self.gradient not in ("forward", "central"):
            raise ValueError(f"step_ratio: gradient: {self.gradient} takes no difference step; set it to null")

    @classmethod
    def knob(cls, values: Mapping[str, Any]) -> Knob | None:
        knob = super().knob(values)
        if knob is None or values.get("radius_unit", "relative") == "relative":
            return knob
        squared = values.get("form") == "squared"
        return Knob("radius", "squared-form rho of the paper" if squared else "norm in embedding space")

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        return WorstLaw(probabilities=prior)

    def joint(self, gradients: Tensor, prompt_mask: Tensor) -> Tensor:
        """Gradients with respect to the inputs of a pair, from those of its two rows.

        Args:
            gradients: ``[2B, T, D]`` of the summed pair losses with respect to the embedded tokens.
            prompt_mask: ``[2B, T]``, true at prompt positions.

        Returns:
            ``[2B, T, D]``: with ``prompt: joint`` the prompt positions of both rows hold the sum of the two, the
            gradient with respect to their one prompt; unchanged with ``per_sequence``.
        """
        if self.prompt == "per_sequence":
            return gradients
        chosen, rejected = gradients.chunk(2)
        both = (chosen + rejected).repeat(2, 1, 1)
        return torch.where(_shared_prompt(prompt_mask).repeat(2, 1).unsqueeze(-1), both, gradients)

    def statistics(
        self,
        gradients: Tensor,
        embeddings: Tensor,
        mask: Tensor,
        prompt_mask: Tensor,
        weight: Tensor | None = None,
    ) -> InputStatistics:
        """The sums of these pairs; a joint prompt counts once.

        Args:
            gradients: ``[2B, T, D]``, what :meth:`joint` returned.
            embeddings: ``[2B, T, D]``.
            mask: ``[2B, T]``, true at all positions but padding.
            prompt_mask: ``[2B, T]``, true at prompt positions.
            weight: ``[B]`` prior weights, default 1.
        """
        counted = mask.bool()
        if self.prompt == "joint":
            repeated = _shared_prompt(prompt_mask)
            counted = counted & ~torch.cat([torch.zeros_like(repeated), repeated])
        size = len(gradients) // 2
        pair_weight = torch.ones(size) if weight is None else weight.detach()
        pair_weight = pair_weight.to(gradients.device, torch.float64)

        def total(rows: Tensor) -> Tensor:
            return (pair_weight * rows.to(torch.float64).sum(1).view(2, size).sum(0)).sum()

        return InputStatistics(
            gradient_square=total(_squares(gradients) * counted),
            embedding_square=total(_squares(embeddings.detach()) * counted),
            elements=total(counted) * gradients.shape[-1],
            pairs=pair_weight.sum(),
        )

    def absolute_radius(self, stats: InputStatistics) -> Tensor:
        """The paper's rho_o: the radius in the units of the embeddings (root) or of the squared form."""
        scale = (stats.embedding_square / stats.pairs).sqrt() if self.radius_unit == "relative" else 1.0
        return self.radius * scale * torch.ones_like(stats.pairs)

    def coefficient(self, stats: InputStatistics) -> Tensor:
        """c with grad_theta(penalty) = c grad_theta(mean ||g_i||^2), 0-dim, detached; 0 where all g_i are 0."""
        radius = self.absolute_radius(stats)
        if self.form == "squared":
            return radius
        norm = (stats.gradient_square.detach() / stats.pairs).sqrt()
        return torch.where(norm > 0, radius / (2 * norm), 0.0)

    def penalty(self, stats: InputStatistics) -> Tensor:
        """The value added to the nominal loss, 0-dim, detached: rho sqrt(mean ||g||^2) or rho mean ||g||^2."""
        mean = stats.gradient_square.detach() / stats.pairs
        return self.absolute_radius(stats) * (mean if self.form == "squared" else mean.sqrt())

    def surrogate(self, stats: InputStatistics, pooled: InputStatistics | None = None) -> Tensor:
        """A 0-dim tensor with the gradient of the penalty, for ``gradient: exact``.

        Args:
            stats: of some pairs, from gradients taken with ``create_graph=True``.
            pooled: of the whole optimiser batch, detached; default the same pairs. The surrogates of its parts add
                up to that of the whole.
        """
        whole = stats if pooled is None else pooled
        penalty: Tensor = self.coefficient(whole) * stats.gradient_square / whole.pairs
        return penalty

    def offsets(self, gradients: Tensor, stats: InputStatistics) -> Tensor:
        """How the adversary moves the embedded inputs: 2 c g, detached, shape and dtype of ``gradients``."""
        return gradients.detach() * (2 * self.coefficient(stats)).to(gradients)

    def relative_displacement(self, stats: InputStatistics) -> Tensor:
        """rms of the offsets over rms of the embeddings, 0-dim: the realised radius in the unit ``relative``."""
        moved = 2 * self.coefficient(stats) * stats.gradient_square.detach().sqrt()
        return moved / stats.embedding_square.sqrt()

    def finite_difference_step(self, stats: InputStatistics, dtype: torch.dtype = torch.float32) -> Tensor:
        """eta with eta rms(g) = step_ratio rms(x), 0-dim; 0 where all g_i are 0.

        Args:
            stats: of the whole optimiser batch.
            dtype: of the forward pass (the autocast dtype under autocast), which sets the default ratio.
        """
        ratio = self.step_ratio if self.step_ratio is not None else STEP_RATIOS[dtype]
        square = stats.gradient_square.detach()
        return torch.where(square > 0, ratio * (stats.embedding_square / square).sqrt(), 0.0)


def _shared_prompt(prompt_mask: Tensor) -> Tensor:
    chosen, rejected = prompt_mask.bool().chunk(2)
    return chosen & rejected


def _squares(vectors: Tensor) -> Tensor:
    """Squared norms over the last dimension, in fp32 at least."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, dtype=dtype)
    return norms.square()
