"""The plan of an optimiser step, and the per-pair quantities of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from robustalign.objectives import InputStatistics, PairLoss, PairTerms, RobustValue
from robustalign.objectives.terms import DATA_COLUMNS
from robustalign.policies.packing import Rows
from robustalign.training.steps.rounding import logp_rounding, of_pairs

Batch = dict[str, Tensor]


def rows_of(batch: Batch, share: bool = True) -> Rows:
    """The rows of a batch; with ``share`` the chosen and the rejected of a pair have one prompt."""
    ids = batch["input_ids"]
    tree = torch.arange(len(ids) // 2, device=ids.device).repeat(2) if share else None
    return Rows(ids, batch["attention_mask"], batch["completion_mask"], tree)


def pair_terms(batch: Batch, logps: Tensor, precision: torch.dtype | None = None) -> PairTerms:
    """The quantities of each pair from ``logps [2B]`` (chosen rows, then rejected), in nats.

    ``precision``: of the forward that they come from; default their own.
    """
    chosen, rejected = logps.chunk(2)
    ref_chosen, ref_rejected = batch["ref_logps"].to(logps).chunk(2)
    chosen_ratio, rejected_ratio = chosen - ref_chosen, rejected - ref_rejected
    lengths = batch["completion_mask"].sum(1).to(logps).chunk(2)
    return PairTerms(
        margin=chosen_ratio - rejected_ratio,
        margin_rounding=of_pairs(row_rounding(batch, logps, precision)),
        chosen_logratio=chosen_ratio,
        rejected_logratio=rejected_ratio,
        chosen_logp=chosen,
        rejected_logp=rejected,
        chosen_length=lengths[0],
        rejected_length=lengths[1],
        policy_weight=batch.get("policy_weight"),
        **{name: batch.get(name) for name in DATA_COLUMNS},
    )


def row_rounding(batch: Batch, logps: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """How far ``logps [2B]`` may be from the reference's by rounding alone, nats."""
    tokens = batch["completion_mask"].sum(1)
    return logp_rounding(logps, tokens, precision or logps.dtype, batch["ref_logps"].dtype)


def loss_rounding(batch: Batch, logps: Tensor, loss: PairLoss, precision: torch.dtype) -> Tensor:
    """How far the loss of each pair may be off by rounding, ``[B]``: that of its two rows times the loss's slopes."""
    with torch.enable_grad():
        leaf = logps.detach().requires_grad_()
        losses = loss.losses(pair_terms(batch, leaf, precision))
        (slopes,) = torch.autograd.grad(losses.sum(), leaf)
    return of_pairs(slopes.abs() * row_rounding(batch, logps, precision))


class Taken(NamedTuple):
    """A forward of one micro-batch with its graph."""

    logps: Tensor
    """``[2B]``, of inputs and parameters that do not move before the backward."""
    statistics: InputStatistics | None = None
    """Of its input gradients, differentiable, where a penalty needs them."""


@dataclass
class Plan:
    """What all micro-batches of one optimiser step share.

    A list has one item for each micro-batch of this rank, except ``pairs_of_ranks``.
    """

    pairs_of_ranks: list[int]
    """The number of pairs of each rank."""
    loss: PairLoss
    """The loss of this batch."""
    prior: list[Tensor | None]
    """Prior weights ``[B]``; None: all equal."""
    alone: bool = False
    """Whether each micro-batch is weighed by itself (``scope: microbatch``, or pairs that do not couple)."""
    adapts_later: bool = False
    """Whether ``loss`` adapts to each micro-batch in its own forward, as no forward of the whole batch was taken."""
    precision: torch.dtype = torch.float32
    """Of the forward."""
    weights: list[Tensor] | None = None
    """Weights ``[B]``; None if they are computed from the micro-batch's own losses (one micro-batch, or ``alone``)."""
    value: RobustValue | None = None
    """The set's answer for the batch, once it is known."""
    directions: list[Tensor] | None = None
    """Input gradients ``[2B,T,D]``."""
    moves: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    """Pairs (coefficient, step). The gradient of the objective is the sum over them of coefficient times the gradient
    of the weighted losses at inputs moved by step times the direction."""
    statistics: InputStatistics | None = None
    """The sums over the batch that the penalty of moved inputs needs."""
    output: Tensor | None = None
    """The offset of the output layer's weights, ``[V,D]``."""
    taken: dict[int, Taken] = field(default_factory=dict)
    """Forwards from making the plan that a micro-batch's loss uses again, by the number of the micro-batch."""
    columns: list[dict[str, Tensor]] | None = None
    """The columns of the pairs (:func:`pair_columns`) before anything moved."""
    diagnostics: dict[str, float] = field(default_factory=dict)
    """Further numbers to log, by name."""

    @property
    def pairs(self) -> int:
        return sum(self.pairs_of_ranks)


def pair_columns(losses: Tensor, terms: PairTerms) -> dict[str, Tensor]:
    """The columns of each pair that are logged, ``[B]`` each, detached."""
    assert terms.chosen_logratio is not None and terms.rejected_logratio is not None
    assert terms.margin_rounding is not None
    columns = {
        "loss": losses,
        "margin": terms.margin,
        "margin_rounding": terms.margin_rounding,
        "chosen": terms.chosen_logratio,
        "rejected": terms.rejected_logratio,
    }
    return {name: column.detach() for name, column in columns.items()}


def joined(columns: Sequence[Tensor | None]) -> Tensor | None:
    """A column over micro-batches; None where they have none."""
    return None if columns[0] is None else torch.cat(list(columns))  # type: ignore[arg-type]
