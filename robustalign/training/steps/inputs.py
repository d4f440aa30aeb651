"""The step of a set that moves embedded inputs: WDPO."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustalign.objectives import InputStatistics, WassersteinBall
from robustalign.policies.logprobs import embedded
from robustalign.training import distributed
from robustalign.training.objective import Objective
from robustalign.training.steps.plan import Batch, Plan, Taken, pair_columns, pair_terms, rows_of
from robustalign.training.steps.weights import MovingStep


class InputStep(MovingStep):
    """For :class:`WassersteinBall`: every embedded token moves along the gradient of its pair's loss."""

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective)
        self.share = self.set.prompt == "joint"

    def _move(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        plan.directions, plan.columns, total = [], [], torch.zeros(4, dtype=torch.float64)
        keeps = self.set.gradient == "exact" and len(batches) == distributed.world() == 1
        for index, batch in enumerate(batches):
            gradients, stats, columns, taken = self._input_gradients(model, batch, plan, index, create_graph=keeps)
            if keeps:
                plan.taken[index] = taken
            plan.directions.append(gradients)
            plan.columns.append(columns)
            total = total.to(gradients.device) + stats.to_tensor()
        self._weigh([columns["loss"] for columns in plan.columns], batches, plan)
        plan.statistics = pooled = InputStatistics.from_tensor(distributed.summed(total))
        plan.moves, eta = input_moves(self.set, pooled, plan.precision)
        plan.diagnostics |= {
            "penalty": float(self.set.penalty(pooled)),
            "input_gradient": float((pooled.gradient_square / pooled.pairs).sqrt()),
            "displacement": float(self.set.relative_displacement(pooled)),
            "absolute_radius": float(self.set.absolute_radius(pooled)),
            "difference_step": eta,
        }

    def _input_gradients(
        self, model: nn.Module, batch: Batch, plan: Plan, index: int, create_graph: bool = False
    ) -> tuple[Tensor, InputStatistics, dict[str, Tensor], Taken]:
        """g [2B,T,D], the gradient of each pair's loss with respect to its embedded tokens; its sums; pair columns; the
        forward, which ``create_graph`` makes one that a loss may take.

        Pairs do not interact, so one backward of the summed losses gives every g_i. Of the ways to compute attention
        only the plain one has a second derivative.
        """
        rows = rows_of(batch)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext():
            embeddings = embedded(model, batch["input_ids"])
            offset = torch.zeros_like(embeddings, requires_grad=True)
            logps = self._logps(model, batch, offset)
            terms = pair_terms(batch, logps, plan.precision)
            losses = plan.loss.losses(terms)
            (gradients,) = torch.autograd.grad(losses.sum(), offset, create_graph=create_graph)
        joint = self.set.joint(gradients, rows.prompt)
        joint = joint if create_graph else joint.detach()
        stats = self.set.statistics(joint, embeddings, rows.attention, rows.prompt, plan.prior[index])
        return joint.detach(), stats, pair_columns(losses, terms), Taken(logps, stats)

    def loss(self, model: nn.Module, batch: Batch, plan: Plan, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        if self.set.gradient != "exact":
            return super().loss(model, batch, plan, index)
        if index not in plan.taken:
            plan.taken[index] = self._input_gradients(model, batch, plan, index, create_graph=True)[-1]
        statistics = plan.taken[index].statistics
        total, columns = super().loss(model, batch, plan, index)
        return total + self.set.surrogate(statistics, plan.statistics).to(total), columns


def input_moves(
    ball: WassersteinBall, pooled: InputStatistics, dtype: torch.dtype
) -> tuple[tuple[tuple[float, float], ...], float]:
    """The objective's gradient as first-order gradients at moved inputs (see ``WassersteinBall``), and the step eta
    of a difference, 0 without one.

    The mean of the gradients on both sides stands for the one between them, at the order of the difference itself.
    """
    c = float(ball.coefficient(pooled))
    if c == 0.0 or ball.gradient == "exact":
        return ((1.0, 0.0),), 0.0
    if ball.gradient == "moved":
        return ((1.0, 2 * c),), 0.0
    eta = float(ball.finite_difference_step(pooled, dtype))
    if ball.gradient == "forward":
        return ((1 - 2 * c / eta, 0.0), (2 * c / eta, eta)), eta
    return ((0.5 + c / eta, eta), (0.5 - c / eta, -eta)), eta
