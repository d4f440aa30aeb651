"""One optimiser batch under an objective, exact however it is cut into micro-batches and ranks.

A *plan* is made from all micro-batches of an optimiser step before the first backward: the loss (where it
adapts to the batch), the weights of the pairs (from the losses of the whole batch), and how their inputs or the
output layer move (from gradients of the whole batch). Then each micro-batch contributes a weighted sum of pair
losses whose gradients add up to that of the robust objective.

What the ambiguity set acts on, which its class declares, decides which kind of step it is.
"""

from __future__ import annotations

from robustalign.training.objective import Objective
from robustalign.training.steps.inputs import InputStep
from robustalign.training.steps.output_layer import OutputLayerStep
from robustalign.training.steps.plan import Batch, Plan, pair_terms, rows_of
from robustalign.training.steps.weights import WeightStep

STEPS = {"weights": WeightStep, "inputs": InputStep, "output_layer": OutputLayerStep}

__all__ = ["STEPS", "Batch", "InputStep", "OutputLayerStep", "Plan", "WeightStep", "objective_step", "pair_terms",
           "rows_of"]  # fmt: skip


def objective_step(objective: Objective) -> WeightStep:
    """The step for what the objective's ambiguity set acts on."""
    return STEPS[objective.set.acts_on](objective)
