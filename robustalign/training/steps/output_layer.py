"""The step of a set that moves the output layer's weights: logits-SAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from robustalign.policies.logprobs import graph_from_output
from robustalign.training import distributed
from robustalign.training.steps.plan import Batch, Plan, pair_columns, pair_terms
from robustalign.training.steps.weights import MovingStep


class OutputLayerStep(MovingStep):
    """For :class:`OutputLayerBall`: one offset of one matrix for all pairs."""

    def _move(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        """E [V,D] from the gradient of the mean loss with respect to the output layer's weights."""
        plan.columns, total, pairs = [], torch.zeros(()), torch.zeros(1, dtype=torch.float64)
        for prior, batch in zip(plan.prior, batches, strict=True):
            with torch.no_grad(), graph_from_output(model) as tensors:
                terms = pair_terms(batch, self._logps(model, batch), plan.precision)
                losses = plan.loss.losses(terms)
                hidden, logits = tensors[-1]
                weighted = losses if prior is None else prior.to(losses) * losses
                (slope,) = torch.autograd.grad(weighted.sum(), logits)
            plan.columns.append(pair_columns(losses, terms))
            total = total.to(hidden) + slope[0].T @ hidden[0]
            pairs += len(losses) if prior is None else float(prior.sum())
        self._weigh([columns["loss"] for columns in plan.columns], batches, plan)
        gradient = distributed.summed(total) / float(distributed.summed(pairs.to(total.device)))
        plan.output = self.set.offset(gradient)
        plan.diagnostics |= {"penalty": float(self.set.penalty(gradient)), "output_gradient": float(gradient.norm())}
