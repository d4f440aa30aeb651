"""One optimiser batch under an objective, exact however it is cut into micro-batches and ranks.

A *plan* is made from all micro-batches of an optimiser step before the first backward: the weights of the
pairs (from the losses of the whole batch) and how their inputs move (from the input gradients of the whole
batch). Then each micro-batch contributes a weighted sum of pair losses whose gradients add up to that of
the robust objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustalign.objectives import InputStatistics, Nominal, PairTerms, RobustValue, WassersteinBall
from robustalign.policies.familiarity import policy_weight
from robustalign.policies.logprobs import sequence_logps, unwrapped
from robustalign.policies.packing import Rows
from robustalign.training.objective import Objective

Batch = dict[str, Tensor]


def rows_of(batch: Batch, share: bool = True) -> Rows:
    """The rows of a batch; with ``share`` the chosen and the rejected of a pair have one prompt."""
    ids = batch["input_ids"]
    tree = torch.arange(len(ids) // 2, device=ids.device).repeat(2) if share else None
    return Rows(ids, batch["attention_mask"], batch["completion_mask"], tree)


def pair_terms(batch: Batch, logps: Tensor) -> PairTerms:
    """The quantities of each pair from ``logps [2B]`` (chosen rows, then rejected), in nats."""
    chosen, rejected = logps.chunk(2)
    ref_chosen, ref_rejected = batch["ref_logps"].to(logps).chunk(2)
    chosen_ratio, rejected_ratio = chosen - ref_chosen, rejected - ref_rejected
    lengths = batch["completion_mask"].sum(1).to(logps).chunk(2)
    return PairTerms(
        margin=chosen_ratio - rejected_ratio,
        chosen_logratio=chosen_ratio,
        rejected_logratio=rejected_ratio,
        chosen_logp=chosen,
        rejected_logp=rejected,
        chosen_length=lengths[0],
        rejected_length=lengths[1],
        weight=batch.get("weight"),
        group=batch.get("group"),
        score_gap=batch["score_gap"],
        soft_label=batch.get("soft_label"),
        policy_weight=batch.get("policy_weight"),
    )


@dataclass
class Plan:
    """What all micro-batches of one optimiser step share.

    ``weights``: per micro-batch ``[B]``, or None where they follow from its own losses (one micro-batch, or
    ``scope: microbatch``). ``directions``: per micro-batch the input gradients ``[2B,T,D]``. ``moves``:
    (coefficient, step) pairs: the objective's gradient is the sum over them of coefficient times the gradient
    of the weighted losses at inputs moved by step times the direction. ``columns``: per micro-batch what the
    pairs were before anything moved.
    """

    pairs: int
    weights: list[Tensor] | None = None
    value: RobustValue | None = None
    directions: list[Tensor] | None = None
    moves: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    statistics: InputStatistics | None = None
    columns: list[dict[str, Tensor]] | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)


class ObjectiveStep:
    """Makes plans and turns them into losses; holds no state beyond the ambiguity set's own."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.set = objective.set
        self.share = getattr(objective.set, "prompt", "joint") == "joint"

    def plan(self, model: nn.Module, batches: Sequence[Batch]) -> Plan:
        """Look at the whole optimiser batch where the set couples its pairs; add the columns that the policy gives."""
        if "policy_weight" in self.objective.needs:
            for batch in batches:
                batch["policy_weight"] = policy_weight(model, rows_of(batch))
        plan = Plan(pairs=_over_ranks(sum(len(batch["row"]) for batch in batches)))
        if isinstance(self.set, WassersteinBall):
            self._plan_moves(model, batches, plan)
        elif self.objective.scope != "microbatch" and len(batches) > 1 and self._couples(batches):
            self._plan_weights(model, batches, plan)
        return plan

    def _couples(self, batches: Sequence[Batch]) -> bool:
        """Whether a pair's weight depends on other pairs: not for the nominal law of equal pairs."""
        return not isinstance(self.set, Nominal) or "weight" in batches[0]

    def _plan_weights(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        with torch.no_grad():
            losses = [self._losses(batch, self._logps(model, batch))[0] for batch in batches]
        self._weigh(losses, batches, plan)

    def _weigh(self, losses: list[Tensor], batches: Sequence[Batch], plan: Plan) -> None:
        plan.value, mine = self._robust(torch.cat(losses), _joined(batches, "weight"), _joined(batches, "group"))
        plan.weights = list(mine.split([len(part) for part in losses]))

    def _plan_moves(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        assert isinstance(self.set, WassersteinBall)
        plan.directions, plan.columns, total = [], [], torch.zeros(4, dtype=torch.float64)
        for batch in batches:
            gradients, embeddings, columns = self._input_gradients(model, batch)
            stats = self._statistics(gradients, embeddings, batch)
            plan.directions.append(gradients)
            plan.columns.append(columns)
            total = total.to(gradients.device) + stats.to_tensor()
        self._weigh([columns["loss"] for columns in plan.columns], batches, plan)
        plan.statistics = pooled = InputStatistics.from_tensor(_summed(total))
        plan.moves = _moves(self.set, pooled, _forward_dtype(model))
        mean_square = pooled.gradient_square / pooled.pairs
        plan.diagnostics = {
            "penalty": float(self.set.penalty(pooled)),
            "input_gradient": float(mean_square.sqrt()),
            "displacement": float(self.set.relative_displacement(pooled)),
            "absolute_radius": float(self.set.absolute_radius(pooled)),
        }

    def _input_gradients(
        self, model: nn.Module, batch: Batch, create_graph: bool = False
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """g [2B,T,D], the gradient of each pair's loss with respect to its embedded tokens; those tokens; the columns.

        Pairs do not interact, so one backward of the summed losses gives every g_i.
        """
        with torch.enable_grad():
            embeddings = unwrapped(model).get_input_embeddings()(batch["input_ids"])
            offset = torch.zeros_like(embeddings, requires_grad=True)
            losses, terms = self._losses(batch, self._logps(model, batch, offset))
            (gradients,) = torch.autograd.grad(losses.sum(), offset, create_graph=create_graph)
        assert isinstance(self.set, WassersteinBall)
        joint = self.set.joint(gradients, rows_of(batch).prompt)
        return (joint if create_graph else joint.detach()), embeddings.detach(), _columns(losses, terms)

    def _statistics(self, gradients: Tensor, embeddings: Tensor, batch: Batch) -> InputStatistics:
        assert isinstance(self.set, WassersteinBall)
        rows = rows_of(batch)
        return self.set.statistics(gradients, embeddings, rows.attention, rows.prompt, batch.get("weight"))

    def loss(self, model: nn.Module, batch: Batch, plan: Plan, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of the objective that micro-batch ``index`` contributes, and its detached pair columns.

        The parts of all micro-batches and ranks add up to the objective of the batch.
        """
        exact = plan.directions is not None and getattr(self.set, "gradient", "") == "exact"
        with sdpa_kernel(SDPBackend.MATH) if exact else nullcontext():
            total, columns = self._moved_loss(model, batch, plan, index)
            if exact:
                assert isinstance(self.set, WassersteinBall) and plan.statistics is not None
                gradients, embeddings, _ = self._input_gradients(model, batch, create_graph=True)
                stats = self._statistics(gradients, embeddings, batch)
                total = total + self.set.surrogate(stats, plan.statistics).to(total)
        return total, columns

    def _moved_loss(self, model: nn.Module, batch: Batch, plan: Plan, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        total: Tensor | None = None
        columns: dict[str, Tensor] = {}
        for coefficient, step in plan.moves:
            offset = step * plan.directions[index] if plan.directions is not None and step else None
            losses, terms = self._losses(batch, self._logps(model, batch, offset))
            if plan.weights is not None:
                weights = plan.weights[index]
            else:
                plan.value, weights = self._robust(losses.detach(), batch.get("weight"), batch.get("group"))
            part = coefficient * (weights * losses).sum() / plan.pairs
            total = part if total is None else total + part
            columns = plan.columns[index] if plan.columns is not None else _columns(losses, terms)
            columns = columns | {"weight": weights}
        assert total is not None
        return total, columns

    def _logps(self, model: nn.Module, batch: Batch, offset: Tensor | None = None) -> Tensor:
        return sequence_logps(model, rows_of(batch, self.share), offset)

    def _losses(self, batch: Batch, logps: Tensor) -> tuple[Tensor, PairTerms]:
        terms = pair_terms(batch, logps)
        return self.objective.loss.losses(terms), terms

    def _robust(self, losses: Tensor, weight: Tensor | None, group: Tensor | None) -> tuple[RobustValue | None, Tensor]:
        """The set's answer for the losses of all ranks, and the weights of this rank's pairs.

        A batch in which no pair has a prior weight asks for no step: None, and weights of 0.
        """
        everywhere = self.objective.scope != "microbatch"
        gathered, mine = _gathered(losses) if everywhere else (losses, slice(None))
        columns = {
            "weight": _gathered(weight)[0] if everywhere and weight is not None else weight,
            "group": _gathered(group)[0] if everywhere and group is not None else group,
        }
        if columns["weight"] is not None and not bool(columns["weight"].any()):
            return None, torch.zeros_like(losses)
        value = self.set.step(gathered, **columns)
        return value, value.weights[mine]


def _moves(ball: WassersteinBall, pooled: InputStatistics, dtype: torch.dtype) -> tuple[tuple[float, float], ...]:
    """The objective's gradient as first-order gradients at moved inputs (see ``WassersteinBall``)."""
    c = float(ball.coefficient(pooled))
    if c == 0.0 or ball.gradient == "exact":
        return ((1.0, 0.0),)
    if ball.gradient == "moved":
        return ((1.0, 2 * c),)
    eta = float(ball.finite_difference_step(pooled, dtype))
    if ball.gradient == "forward":
        return ((1 - 2 * c / eta, 0.0), (2 * c / eta, eta))
    return ((c / eta, eta), (-c / eta, -eta), (1.0, 0.0))


def _forward_dtype(model: nn.Module) -> torch.dtype:
    """The precision of the forward: that of autocast where it is on, else the parameters'."""
    parameter = next(model.parameters())
    device = parameter.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def _columns(losses: Tensor, terms: PairTerms) -> dict[str, Tensor]:
    """What is reported of each pair, ``[B]``, detached."""
    assert terms.chosen_logratio is not None and terms.rejected_logratio is not None
    columns = {
        "loss": losses,
        "margin": terms.margin,
        "chosen": terms.chosen_logratio,
        "rejected": terms.rejected_logratio,
    }
    return {name: column.detach() for name, column in columns.items()}


def _joined(batches: Sequence[Batch], name: str) -> Tensor | None:
    return torch.cat([batch[name] for batch in batches]) if name in batches[0] else None


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _over_ranks(count: int) -> int:
    return count * _world()


def _summed(tensor: Tensor) -> Tensor:
    if _world() > 1:
        dist.all_reduce(tensor)
    return tensor


def _gathered(column: Tensor) -> tuple[Tensor, slice]:
    """A column of all ranks (equal lengths), and where this rank's part lies."""
    if _world() == 1:
        return column, slice(None)
    parts = [torch.empty_like(column) for _ in range(_world())]
    dist.all_gather(parts, column.contiguous())
    start = dist.get_rank() * len(column)
    return torch.cat(parts), slice(start, start + len(column))
