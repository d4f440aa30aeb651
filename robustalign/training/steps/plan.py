"""What the micro-batches of one optimiser step share, and what a batch offers to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass
class Plan:
    """What all micro-batches of one optimiser step share.

    ``pairs_of_ranks``: how many pairs each rank has. ``alone``: each micro-batch is weighed by itself (``scope:
    microbatch``, or pairs that do not couple). ``loss``: that of this batch, which ``adapts_later`` where its own
    forward is the first look at it. ``precision``: of the forward. ``prior``: per micro-batch the prior weights
    ``[B]``, None: all equal.
    ``weights``: per micro-batch ``[B]``, or None where they follow from its own losses (one micro-batch, or
    ``alone``). ``directions``: per micro-batch the input gradients ``[2B,T,D]``. ``moves``: (coefficient, step) pairs:
    the objective's gradient is the sum over them of coefficient times the gradient of the weighted losses at inputs
    moved by step times the direction. ``output``: by how much the output layer's weights move, ``[V,D]``. ``columns``:
    per micro-batch what the pairs were before anything moved.
    """

    pairs_of_ranks: list[int]
    loss: PairLoss
    prior: list[Tensor | None]
    alone: bool = False
    adapts_later: bool = False
    precision: torch.dtype = torch.float32
    weights: list[Tensor] | None = None
    value: RobustValue | None = None
    directions: list[Tensor] | None = None
    moves: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    statistics: InputStatistics | None = None
    output: Tensor | None = None
    columns: list[dict[str, Tensor]] | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        return sum(self.pairs_of_ranks)


def pair_columns(losses: Tensor, terms: PairTerms) -> dict[str, Tensor]:
    """What is reported of each pair, ``[B]``, detached."""
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
