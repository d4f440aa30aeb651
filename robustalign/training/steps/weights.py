"""The step of a set that weighs pairs, and what every kind of step has in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustalign.objectives import AdaptiveLoss, RobustValue
from robustalign.objectives.ambiguity_set import tied
from robustalign.policies.familiarity import policy_weight
from robustalign.policies.logprobs import forward_dtype, sequence_logps
from robustalign.training import distributed
from robustalign.training.objective import Objective
from robustalign.training.steps.plan import Batch, Plan, Taken, joined, loss_rounding, pair_columns, pair_terms, rows_of


class WeightStep:
    """Makes plans and turns them into losses; holds no state beyond what the loss and the set have learnt."""

    share = True
    """Whether the two rows of a pair have one prompt."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.set: Any = objective.set  # the subclass says of which type

    def plan(self, model: nn.Module, batches: Sequence[Batch]) -> Plan:
        """The plan of an optimiser step. It takes a forward of the whole batch first if the set couples its pairs."""
        if "policy_weight" in self.objective.needs:
            for batch in batches:
                batch["policy_weight"] = policy_weight(model, rows_of(batch))
        counts = distributed.counts(sum(len(batch["row"]) for batch in batches), len(batches))
        plan = Plan(
            pairs_of_ranks=[pairs for pairs, _ in counts],
            loss=self.objective.loss,
            prior=[batch.get("weight") for batch in batches],
            precision=forward_dtype(model),
        )
        self._complete(model, batches, plan, several=max(micro_batches for _, micro_batches in counts) > 1)
        return plan

    def _complete(self, model: nn.Module, batches: Sequence[Batch], plan: Plan, several: bool) -> None:
        """Fill the plan. ``several``: whether some rank has more than one micro-batch."""
        microbatch, adaptive = self.objective.scope == "microbatch", isinstance(plan.loss, AdaptiveLoss)
        adapts = adaptive and several and not microbatch
        plan.adapts_later = adaptive and not adapts
        plan.alone = microbatch or (several and not adapts and not self._couples(batches))
        couples = several and not plan.alone
        logps = self._look(model, batches) if adapts or couples else []
        if logps and logps[-1].requires_grad:
            plan.taken[len(batches) - 1] = Taken(logps[-1])
        logps = [each.detach() for each in logps]
        if adapts:
            self._adapt(logps, batches, plan)
        if couples:
            looks = list(zip(batches, logps, strict=True))
            losses = [plan.loss.losses(pair_terms(*look, plan.precision)) for look in looks]
            rounding = [loss_rounding(*look, plan.loss, plan.precision) for look in looks]
            self._weigh(losses, batches, plan, rounding)

    def _couples(self, batches: Sequence[Batch]) -> bool:
        """Whether a pair's weight depends on other pairs."""
        return self.set.couples or "weight" in batches[0]

    def _look(self, model: nn.Module, batches: Sequence[Batch]) -> list[Tensor]:
        """Log-probabilities ``[2B]`` of each micro-batch. Those of the last keep their graph, which its loss then uses.

        Not where ranks train together: there the loss has to go through the wrapper that exchanges gradients.
        """
        last = len(batches) - 1 if distributed.world() == 1 else None
        logps = []
        for number, batch in enumerate(batches):
            with torch.set_grad_enabled(number == last):
                logps.append(self._logps(model, batch))
        return logps

    def _adapt(self, logps: Sequence[Tensor], batches: Sequence[Batch], plan: Plan, first: int = 0) -> None:
        """Adapt the loss and the prior weights to these pairs, and to those of other ranks unless ``plan.alone``.

        ``first``: the number of the first of these micro-batches.
        """
        assert isinstance(self.objective.loss, AdaptiveLoss)
        span = slice(first, first + len(batches))
        terms = [pair_terms(batch, part.detach(), plan.precision) for batch, part in zip(batches, logps, strict=True)]
        margin, own = self._pooled(plan, torch.cat([part.margin for part in terms]))
        rounding, _ = self._pooled(plan, joined([part.margin_rounding for part in terms]))
        row, _ = self._pooled(plan, joined([batch["row"] for batch in batches]))
        weight, _ = self._pooled(plan, joined(plan.prior[span]))
        if (weight is not None and not bool(weight.any())) or not bool(torch.isfinite(margin).all()):
            return
        plan.loss, prior, diagnostics = self.objective.loss.adapt(tied(margin, rounding), row, weight)
        plan.prior[span] = prior[own].split([len(part.margin) for part in terms])
        plan.diagnostics |= diagnostics

    def _weigh(
        self, losses: list[Tensor], batches: Sequence[Batch], plan: Plan, rounding: Sequence[Tensor | None] = (None,)
    ) -> None:
        columns = joined(plan.prior), joined([batch.get("group") for batch in batches])
        plan.value, weights = self._robust(plan, torch.cat(losses), joined(rounding), *columns)
        plan.weights = list(weights.split([len(part) for part in losses]))

    def loss(self, model: nn.Module, batch: Batch, plan: Plan, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The part of the objective that micro-batch ``index`` contributes, and its detached pair columns.

        The parts of all micro-batches and ranks add up to the objective of the batch. Begin with the last micro-batch:
        the plan may hold the graph of its forward, which takes memory.
        """
        total: Tensor | None = None
        columns: dict[str, Tensor] = {}
        for coefficient, step in plan.moves:
            offset = step * plan.directions[index] if plan.directions is not None and step else None
            taken = plan.taken.pop(index, None)
            logps = self._logps(model, batch, offset, plan.output) if taken is None else taken.logps
            if plan.adapts_later:
                self._adapt([logps], [batch], plan, first=index)
            terms = pair_terms(batch, logps, plan.precision)
            losses = plan.loss.losses(terms)
            if plan.weights is not None:
                weights = plan.weights[index]
            else:
                rounding = loss_rounding(batch, logps, plan.loss, plan.precision) if self.set.couples else None
                columns_of_pairs = plan.prior[index], batch.get("group")
                plan.value, weights = self._robust(plan, losses.detach(), rounding, *columns_of_pairs)
            part = coefficient * (weights * losses).sum() / plan.pairs
            total = part if total is None else total + part
            columns = plan.columns[index] if plan.columns is not None else pair_columns(losses, terms)
            columns = columns | {"weight": weights}
        assert total is not None
        return total, columns

    def _logps(
        self, model: nn.Module, batch: Batch, offset: Tensor | None = None, output: Tensor | None = None
    ) -> Tensor:
        return sequence_logps(model, rows_of(batch, self.share), offset, output)

    def _robust(
        self, plan: Plan, losses: Tensor, rounding: Tensor | None, weight: Tensor | None, group: Tensor | None
    ) -> tuple[RobustValue | None, Tensor]:
        """The set's answer for the losses of all ranks (or a micro-batch alone), and the weights of this rank's pairs.

        If no pair has a prior weight, the value is None and the weights are 0.
        """
        pooled, own = self._pooled(plan, losses)
        prior, groups, off = (self._pooled(plan, column)[0] for column in (weight, group, rounding))
        if prior is not None and not bool(prior.any()):
            return None, torch.zeros_like(losses)
        value = self.set.step(pooled, weight=prior, group=groups, rounding=off)
        return value, value.weights[own]

    def _pooled(self, plan: Plan, column: Tensor | None) -> tuple[Any, slice]:
        """A column of all pairs that are weighed together (None stays None), and the slice of this rank's pairs."""
        if column is None or plan.alone:
            return column, slice(None)
        return distributed.gathered(column, plan.pairs_of_ranks)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the loss and of the set."""
        parts = {"set": self.set.state_dict(), "loss": self.objective.loss.state_dict()}
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_dict` returned."""
        parts: dict[str, dict[str, Tensor]] = {"set": {}, "loss": {}}
        for key, value in state.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.set.load_state_dict(parts["set"])
        self.objective.loss.load_state_dict(parts["loss"])


class MovingStep(WeightStep):
    """The step of a set that moves inputs or the output layer; the subclass defines which."""

    def _complete(self, model: nn.Module, batches: Sequence[Batch], plan: Plan, several: bool) -> None:
        plan.alone = self.objective.scope == "microbatch"
        if isinstance(plan.loss, AdaptiveLoss):
            with torch.no_grad():
                self._adapt([self._logps(model, batch) for batch in batches], batches, plan)
        self._move(model, batches, plan)

    def _move(self, model: nn.Module, batches: Sequence[Batch], plan: Plan) -> None:
        """Weigh the pairs before anything moves, and put the moves into the plan."""
        raise NotImplementedError
