"""TRL's ``DPOTrainer`` with a worst case over an ambiguity set in place of the mean over pairs.

    from robustalign.integrations.trl import RobustDPOTrainer
    from robustalign.objectives import KLBall

    trainer = RobustDPOTrainer(..., ambiguity_set=KLBall(radius=0.1))  # all else as for trl.DPOTrainer

TRL's own code computes the forward, the pair losses and the metrics. TRL averages the losses, L = mean_i l_i; here the
loss is L + sum_i (p_i - q_i) l_i with TRL's law q (uniform within a micro-batch) and the worst law p near q over the
whole optimiser batch, all micro-batches and ranks. With ``Nominal`` p = q and nothing differs. A Wasserstein ball
leaves the law as it is and moves the embedded inputs (arXiv 2502.01930, Algorithm 1; see ``WassersteinBall``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from trl import DPOTrainer

from robustalign.objectives import AmbiguitySet, InputStatistics, OutputLayerBall, WassersteinBall
from robustalign.policies.logprobs import embedded, forward_dtype, input_offset
from robustalign.training import distributed
from robustalign.training.steps.inputs import input_moves
from robustalign.training.steps.rounding import logp_rounding, of_pairs

REFERENCES = ("ref_chosen_logps", "ref_rejected_logps")  # columns of TRL's batches
COUPLED = {"aot", "aot_unpaired", "sft"}  # losses of TRL's that are not a mean over pairs
STATE = "ambiguity_set.safetensors"


@dataclass
class _Plan:
    """What the micro-batches of one optimiser step share.

    ``excess``: per micro-batch ``[B]``, (p_i - q_i) times micro-batches times ranks, over which TRL averages; None
    where the first look at the losses is the step itself. ``directions``: per micro-batch ``[2B,T,D]``.
    """

    excess: list[Tensor] | None = None
    directions: list[Tensor] = field(default_factory=list)
    moves: tuple[tuple[float, float], ...] = ((1.0, 0.0),)


class RobustDPOTrainer(DPOTrainer):
    """As ``trl.DPOTrainer``, and:

    Args:
        ambiguity_set: any set of ``robustalign.objectives`` that re-weights pairs, or a ``WassersteinBall`` whose
            ``gradient`` is moved, forward or central.

    Evaluation reports TRL's own mean loss: it is what certificates and worst cases are computed from.

    Raises:
        ValueError: a set or a ``loss_type`` for which a worst case over pairs is not defined here.
    """

    def __init__(self, *args: Any, ambiguity_set: AmbiguitySet, **options: Any) -> None:
        if isinstance(ambiguity_set, OutputLayerBall) or getattr(ambiguity_set, "gradient", "") == "exact":
            raise ValueError(
                f"ambiguity_set: {ambiguity_set} differentiates TRL's fused output layer; use gradient: moved"
            )
        if "group" in ambiguity_set.needs:
            raise ValueError(f"ambiguity_set: {ambiguity_set} needs groups, which TRL's batches do not carry")
        super().__init__(*args, **options)
        coupled = sorted(COUPLED & set(self.loss_types))
        if coupled:
            raise ValueError(
                f"loss_type: {', '.join(coupled)} is not a mean over pairs and has no worst case over them"
            )
        self.ambiguity_set = ambiguity_set
        self._plan = _Plan()
        self._index = 0

    def get_batch_samples(self, *args: Any, **options: Any) -> Any:
        """All micro-batches of an optimiser step, looked at together where the set couples their pairs."""
        batches, items = super().get_batch_samples(*args, **options)
        batches = [self._with_reference(self._prepare_inputs(batch)) for batch in batches]
        self._index = 0
        with self.compute_loss_context_manager():
            self._plan = self._plan_of(batches)
        return batches, items

    def _plan_of(self, batches: Sequence[Mapping[str, Tensor]]) -> _Plan:
        model = self.model_wrapped
        if isinstance(self.ambiguity_set, WassersteinBall):
            return self._moved(model, batches)
        if len(batches) * self.accelerator.num_processes == 1:
            return _Plan()
        with torch.no_grad(), self._silent():
            looks = [self._losses_and_rounding(model, batch)[1:] for batch in batches]
        return _Plan(self._excess([losses for losses, _ in looks], [rounding for _, rounding in looks]))

    def _excess(self, losses: Sequence[Tensor], rounding: Sequence[Tensor]) -> list[Tensor]:
        """Per micro-batch ``[B]``: see ``_Plan``. Losses that differ by their ``rounding`` alone are equals."""
        sizes = [len(part) for part in losses]
        prior = torch.cat([torch.full_like(part, 1 / len(part)) for part in losses])
        lengths = [pairs for (pairs,) in distributed.counts(len(prior))]
        everywhere, here = distributed.gathered(torch.cat(list(losses)).detach(), lengths)
        weight, _ = distributed.gathered(prior, lengths)
        off, _ = distributed.gathered(torch.cat(list(rounding)), lengths)
        worst = self.ambiguity_set.step(everywhere, weight=weight, rounding=off)
        probability = worst.weights[here] / len(everywhere)
        averaged = len(losses) * self.accelerator.num_processes
        self._note({"robust/ess": worst.ess, "robust/divergence": worst.divergence, "robust/dual": worst.dual})
        return list((averaged * probability - prior).split(sizes))

    def _moved(self, model: nn.Module, batches: Sequence[Mapping[str, Tensor]]) -> _Plan:
        """The input gradients of every pair, pooled to how far the adversary moves them."""
        ball, plan = self.ambiguity_set, _Plan(excess=[])
        assert isinstance(ball, WassersteinBall)
        total = torch.zeros(4, dtype=torch.float64)
        for batch in batches:
            attention = batch["attention_mask"].bool()
            prompt = attention & ~batch["completion_mask"].bool()
            embeddings = embedded(model, batch["input_ids"])
            offset = torch.zeros_like(embeddings, requires_grad=True)
            with self._silent(), torch.enable_grad(), input_offset(model, offset):
                losses = self._losses(model, batch)[1]
            (gradient,) = torch.autograd.grad(losses.sum(), offset)
            direction = ball.joint(gradient, prompt)
            plan.directions.append(direction)
            total = total.to(direction.device) + ball.statistics(direction, embeddings, attention, prompt).to_tensor()
        pooled = InputStatistics.from_tensor(distributed.summed(total))
        plan.moves, _ = input_moves(ball, pooled, self._precision(model))
        self._note({"robust/penalty": float(ball.penalty(pooled))})
        return plan

    def _compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool) -> Any:
        if return_outputs or not model.training:
            return super()._compute_loss(model, inputs, return_outputs)
        index, self._index = self._index, self._index + 1
        if isinstance(self.ambiguity_set, WassersteinBall):
            parts = []
            for number, (coefficient, step) in enumerate(self._plan.moves):
                offset = step * self._plan.directions[index] if step else None
                with self._silent() if number else contextlib.nullcontext(), input_offset(model, offset):
                    parts.append(coefficient * super()._compute_loss(model, inputs, False))
            return sum(parts)
        whole, losses, rounding = self._losses_and_rounding(model, inputs)
        excess = self._plan.excess
        correction = self._excess([losses], [rounding])[0] if excess is None else excess[index]
        return whole + (correction.to(losses) * losses).sum()

    def _losses_and_rounding(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`_losses`, with the rounding of each pair's loss, ``[B]``, in place of the reference's.

        The slopes of a loss by the reference's log-probabilities are minus those by the policy's, which TRL hides.
        """
        whole, losses, references = self._losses(model, inputs)
        with torch.enable_grad():
            slopes = torch.autograd.grad(losses.sum(), references, retain_graph=True, allow_unused=True)
        logps = torch.cat(references).detach()
        tokens = inputs["completion_mask"].sum(1)
        rows_off = logp_rounding(logps, tokens, self._precision(model), logps.dtype)
        slope = torch.cat([torch.zeros_like(losses) if part is None else part for part in slopes])
        return whole, losses, of_pairs(slope.abs() * rows_off)

    def _losses(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """TRL's loss of a micro-batch; that of each pair alone from the same forward, ``[B]``, and the reference's
        log-probabilities by which these can be differentiated, of chosen and of rejected replies, ``[B]`` each."""
        recorder, size = _Recorder(model), len(inputs["ref_chosen_logps"])
        with self._precomputed():
            whole = super()._compute_loss(recorder, dict(inputs), False)
            references = [inputs[name].detach().requires_grad_() for name in REFERENCES]
            columns, losses = dict(inputs) | dict(zip(REFERENCES, references, strict=True)), []
            with self._silent(), torch.enable_grad():
                for pair in range(size):
                    rows = [pair, size + pair]
                    alone = {name: value[rows if len(value) == 2 * size else [pair]] for name, value in columns.items()}
                    losses.append(super()._compute_loss(recorder.rows(rows), alone, False))
                each = torch.stack(losses)
        return whole, each, references

    def _precision(self, model: nn.Module) -> torch.dtype:
        """Of the forward, in which alone accelerate casts."""
        return torch.bfloat16 if self.args.bf16 else forward_dtype(model)

    def _with_reference(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the reference's log-probabilities, so that they are computed once for every look."""
        if "ref_chosen_logps" in inputs:
            return inputs
        chosen, rejected = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return inputs | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

    @contextlib.contextmanager
    def _precomputed(self) -> Iterator[None]:
        before, self.precompute_ref_logps = self.precompute_ref_logps, True
        try:
            yield
        finally:
            self.precompute_ref_logps = before

    @contextlib.contextmanager
    def _silent(self) -> Iterator[None]:
        """What is computed here is not counted among the metrics, nor are losses that do not belong to pairs."""
        metrics = {mode: {name: list(v) for name, v in of_mode.items()} for mode, of_mode in self._metrics.items()}
        tokens, auxiliary = self._total_train_tokens, self.aux_loss_enabled
        self.aux_loss_enabled = False
        try:
            yield
        finally:
            for mode, of_mode in self._metrics.items():
                of_mode.clear()
                of_mode.update(metrics[mode])
            self._total_train_tokens, self.aux_loss_enabled = tokens, auxiliary

    def _note(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._metrics["train"][name].append(value)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        state = self.ambiguity_set.state_dict()
        if state and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            save_file({name: value.contiguous() for name, value in state.items()}, folder / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = Path(resume_from_checkpoint) / STATE
        if state.is_file():
            self.ambiguity_set.load_state_dict(load_file(state))


class _Recorder:
    """A model whose one forward can be looked at again, some rows at a time."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.outputs = model, SimpleNamespace()

    def __call__(self, **inputs: Any) -> Any:
        self.outputs = self.model(**inputs)
        return self.outputs

    def rows(self, rows: Sequence[int]) -> Any:
        """A model that answers with these rows of the forward."""
        names = ("log_probs", "entropy", "mean_logits", "is_top1", "log_sum_sq_probs")
        parts = {name: getattr(self.outputs, name, None) for name in names}
        answer = SimpleNamespace(**{name: None if part is None else part[list(rows)] for name, part in parts.items()})
        return lambda **_: answer
