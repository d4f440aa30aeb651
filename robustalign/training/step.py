"""One optimiser batch under an objective, exact however it is cut into micro-batches and ranks.

A *plan* is made from all micro-batches of an optimiser step before the first backward: the loss (where it
adapts to the batch), the weights of the pairs (from the losses of the whole batch), and how their inputs or the
output layer move (from gradients of the whole batch). Then each micro-batch contributes a weighted sum of pair
losses whose gradients add up to that of the robust objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from robustalign.objectives import (
    AdaptiveLoss,
    InputStatistics,
    Nominal,
    OutputLayerBall,
    PairLoss,
    PairTerms,
    RobustValue,
    WassersteinBall,
)
from robustalign.policies.familiarity import policy_weight
from robustalign.policies.logprobs import embedded, graph_from_output, sequence_logps
from robustalign.policies.packing import Rows
from robustalign.training import distributed
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

    ``pairs_of_ranks``: how many pairs each rank has. ``alone``: each micro-batch is weighed by itself (``scope:
    microbatch``, or pairs that do not couple). ``loss``: that of this batch, which ``adapts_later`` where its own
    forward is the first look at it. ``prior``: per micro-batch the prior weights ``[B]``, None: all equal.
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


class ObjectiveStep:
    """Makes plans and turns them into losses; holds no state beyond what the loss and the set have learnt."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.set = objective.set
        self.share = getattr(objective.set, "prompt", "joint") == "joint"

    def plan(self, model: nn.Module, batches: Sequence[Batch]) -> Plan:
        """Look at the whole optimiser batch where the set couples its pairs; add the columns that the policy gives."""
        if "policy_weight" in self.objective.needs:
            for batch in batches:
                batch["policy_weight"] = policy_weight(model, rows_of(batch))
        here = distributed.counts(sum(len(batch["row"]) for batch in batches), len(batches))
        plan = Plan(
            pairs_of_ranks=[pairs for pairs, _ in here],
            loss=self.objective.loss,
            prior=[batch.get("weight") for batch in batches],
        )
        several = max(micro_batches for _, micro_batches in here) > 1
        microbatch = self.objective.scope == "microbatch"
        moves = isinstance(self.set, WassersteinBall | OutputLayerBall)
        adapts = isinstance(plan.loss, AdaptiveLoss) and (moves or (several and not microbatch))
        plan.adapts_later = isinstance(plan.loss, AdaptiveLoss) and not adapts
        plan.alone = microbatch or (several and not adapts and not self._couples(batches))
        couples = several and not moves and not plan.alone
        terms = self._look(model, batches) if adapts or couples else []
        if adapts:
            self._adapt(terms, batches, plan)
        if isinstance(self.set, WassersteinBall):
            self._plan_moves(model, batches, plan)
        elif isinstance(self.set, OutputLayerBall):
            self._plan_output(model, batches, plan)
        elif couples:
            self._weigh([plan.loss.losses(part) for part in terms], batches, plan)
        return plan

    def _couples(self, batches: Sequence[Batch]) -> bool:
        """Whether a pair's weight depends on other pairs: not for the nominal law of equal pairs."""
        return not isinstance(self.set, Nominal) or "weight" in batches[0]

    @torch.no_grad()
    def _look(self, model: nn.Module, batches: Sequence[Batch]) -> list[PairTerms]:
        return [pair_terms(batch, self._logps(model, batch)) for batch in batches]

    def _adapt(self, terms: Sequence[PairTerms], batches: Sequence[Batch], plan: Plan, first: int = 0) -> None:
        """Set the loss and the prior weights of these pairs, of all ranks unless each micro-batch is alone.

        ``first``: number of the first of these micro-batches.
        """
        assert isinstance(self.objective.loss, AdaptiveLoss)
        here = slice(first, first + len(batches))
        margin, mine = self._known(plan, torch.cat([part.margin.detach() for part in terms]))
        row, _ = self._known(plan, _joined([batch["row"] for batch in batches]))
        weight, _ = self._known(plan, _joined(plan.prior[here]))
        if weight is not None and not bool(weight.any()):
            return
        plan.loss, prior, diagnostics = self.objective.loss.adapt(margin, row, weight)
        plan.prior[here] = prior[mine].split([len(part.margin) for part in terms])
        plan.diagnostics |= diagnostics

    def _weigh(self, losses: list[Tensor], batches: Sequence[Batch], plan: Plan) -> None:
        columns = _joined(plan.prior), _joined([batch.get("group") for batch in batches])
        plan.value, mine = self._robust(plan, torch.cat(losses), *columns)
        plan.weights = list(mine.split([len(part) for part in losses]))

    def _plan_moves(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        assert isinstance(self.set, WassersteinBall)
        plan.directions, plan.columns, total = [], [], torch.zeros(4, dtype=torch.float64)
        for index, batch in enumerate(batches):
            gradients, stats, columns = self._input_gradients(model, batch, plan, index)
            plan.directions.append(gradients)
            plan.columns.append(columns)
            total = total.to(gradients.device) + stats.to_tensor()
        self._weigh([columns["loss"] for columns in plan.columns], batches, plan)
        plan.statistics = pooled = InputStatistics.from_tensor(distributed.summed(total))
        plan.moves, eta = _moves(self.set, pooled, _forward_dtype(model))
        plan.diagnostics |= {
            "penalty": float(self.set.penalty(pooled)),
            "input_gradient": float((pooled.gradient_square / pooled.pairs).sqrt()),
            "displacement": float(self.set.relative_displacement(pooled)),
            "absolute_radius": float(self.set.absolute_radius(pooled)),
            "difference_step": eta,
        }

    def _plan_output(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        """E [V,D] from the gradient of the mean loss with respect to the output layer's weights."""
        assert isinstance(self.set, OutputLayerBall)
        plan.columns, total, pairs = [], torch.zeros(()), torch.zeros(1, dtype=torch.float64)
        for prior, batch in zip(plan.prior, batches, strict=True):
            with torch.no_grad(), graph_from_output(model) as seen:
                terms = pair_terms(batch, self._logps(model, batch))
                losses = plan.loss.losses(terms)
                hidden, logits = seen[-1]
                weighted = losses if prior is None else prior.to(losses) * losses
                (slope,) = torch.autograd.grad(weighted.sum(), logits)
            plan.columns.append(_columns(losses, terms))
            total = total.to(hidden) + slope[0].T @ hidden[0]
            pairs += len(losses) if prior is None else float(prior.sum())
        self._weigh([columns["loss"] for columns in plan.columns], batches, plan)
        gradient = distributed.summed(total) / float(distributed.summed(pairs.to(total.device)))
        plan.output = self.set.offset(gradient)
        plan.diagnostics |= {"penalty": float(self.set.penalty(gradient)), "output_gradient": float(gradient.norm())}

    def _input_gradients(
        self, model: nn.Module, batch: Batch, plan: Plan, index: int, create_graph: bool = False
    ) -> tuple[Tensor, InputStatistics, dict[str, Tensor]]:
        """g [2B,T,D], the gradient of each pair's loss with respect to its embedded tokens; its sums; pair columns.

        Pairs do not interact, so one backward of the summed losses gives every g_i.
        """
        assert isinstance(self.set, WassersteinBall)
        rows = rows_of(batch)
        with torch.enable_grad():
            embeddings = embedded(model, batch["input_ids"])
            offset = torch.zeros_like(embeddings, requires_grad=True)
            terms = pair_terms(batch, self._logps(model, batch, offset))
            losses = plan.loss.losses(terms)
            (gradients,) = torch.autograd.grad(losses.sum(), offset, create_graph=create_graph)
        joint = self.set.joint(gradients, rows.prompt)
        joint = joint if create_graph else joint.detach()
        stats = self.set.statistics(joint, embeddings, rows.attention, rows.prompt, plan.prior[index])
        return joint, stats, _columns(losses, terms)

    def loss(self, model: nn.Module, batch: Batch, plan: Plan, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of the objective that micro-batch ``index`` contributes, and its detached pair columns.

        The parts of all micro-batches and ranks add up to the objective of the batch.
        """
        exact = plan.directions is not None and getattr(self.set, "gradient", "") == "exact"
        with sdpa_kernel(SDPBackend.MATH) if exact else nullcontext():
            total, columns = self._moved_loss(model, batch, plan, index)
            if exact:
                assert isinstance(self.set, WassersteinBall) and plan.statistics is not None
                _, stats, _ = self._input_gradients(model, batch, plan, index, create_graph=True)
                total = total + self.set.surrogate(stats, plan.statistics).to(total)
        return total, columns

    def _moved_loss(self, model: nn.Module, batch: Batch, plan: Plan, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        total: Tensor | None = None
        columns: dict[str, Tensor] = {}
        for coefficient, step in plan.moves:
            offset = step * plan.directions[index] if plan.directions is not None and step else None
            terms = pair_terms(batch, self._logps(model, batch, offset, plan.output))
            if plan.adapts_later:
                self._adapt([terms], [batch], plan, first=index)
            losses = plan.loss.losses(terms)
            if plan.weights is not None:
                weights = plan.weights[index]
            else:
                plan.value, weights = self._robust(plan, losses.detach(), plan.prior[index], batch.get("group"))
            part = coefficient * (weights * losses).sum() / plan.pairs
            total = part if total is None else total + part
            columns = plan.columns[index] if plan.columns is not None else _columns(losses, terms)
            columns = columns | {"weight": weights}
        assert total is not None
        return total, columns

    def _logps(
        self, model: nn.Module, batch: Batch, offset: Tensor | None = None, output: Tensor | None = None
    ) -> Tensor:
        return sequence_logps(model, rows_of(batch, self.share), offset, output)

    def _robust(
        self, plan: Plan, losses: Tensor, weight: Tensor | None, group: Tensor | None
    ) -> tuple[RobustValue | None, Tensor]:
        """The set's answer for the losses of all ranks (or a micro-batch alone), and the weights of this rank's pairs.

        A batch in which no pair has a prior weight asks for no step: None, and weights of 0.
        """
        everywhere, mine = self._known(plan, losses)
        prior, groups = self._known(plan, weight)[0], self._known(plan, group)[0]
        if prior is not None and not bool(prior.any()):
            return None, torch.zeros_like(losses)
        value = self.set.step(everywhere, weight=prior, group=groups)
        return value, value.weights[mine]

    def _known(self, plan: Plan, column: Tensor | None) -> tuple[Any, slice]:
        """A column of all the pairs that are looked at together, None if there is none, and where this rank's lie."""
        if column is None or plan.alone:
            return column, slice(None)
        return distributed.gathered(column, plan.pairs_of_ranks)

    def state_dict(self) -> dict[str, Tensor]:
        """What the loss and the set have learnt."""
        loss = self.objective.loss.state_dict() if isinstance(self.objective.loss, AdaptiveLoss) else {}
        parts = {"set": self.set.state_dict(), "loss": loss}
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        parts: dict[str, dict[str, Tensor]] = {"set": {}, "loss": {}}
        for key, value in state.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.set.load_state_dict(parts["set"])
        if isinstance(self.objective.loss, AdaptiveLoss):
            self.objective.loss.load_state_dict(parts["loss"])


def _moves(
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


def _joined(columns: Sequence[Tensor | None]) -> Tensor | None:
    """A column over micro-batches; None where they have none."""
    return None if columns[0] is None else torch.cat(list(columns))  # type: ignore[arg-type]
