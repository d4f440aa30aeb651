"""A ``transformers.Trainer`` that hands whole optimiser batches to the objective.

Data order, learning-rate schedule and checkpoints are functions of the config alone, so an interrupted
run that resumes ends with the parameters of an uninterrupted one.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from robustalign.config import TrainerConfig
from robustalign.data.pairs import PairCollator, TrainingRows
from robustalign.files import to_disk
from robustalign.policies.logprobs import unwrapped
from robustalign.policies.packing import Rows
from robustalign.training import distributed, sharded, watch
from robustalign.training.objective import Objective
from robustalign.training.steps import Batch, Plan, objective_step, rows_of

Log = Callable[[int, dict[str, float]], None]
SHARDED = "sharded.safetensors"
STATE = "objective.safetensors"


class PairTrainer(Trainer):
    """Trains ``model`` on ``rows`` under ``objective``; ``log(step, metrics)`` is called after every step.

    ``before_save()`` is called before a checkpoint is written: what ``log`` was told must not be lost once it is there.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: TrainingRows,
        objective: Objective,
        config: TrainerConfig,
        *,
        pad: int,
        seed: int,
        output: Path,
        log: Log,
        before_save: Callable[[], None] = lambda: None,
        gradient_checkpointing: bool = False,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        self.step_of = objective_step(objective)
        self.config, self.emit, self.before_save = config, log, before_save
        self._plan: Plan | None = None
        self._columns: list[dict[str, torch.Tensor]] = []
        self._step_started = self._step_seconds = 0.0
        self._step_tokens = 0
        self._first: Batch | None = None
        self.skipped = 0  # optimiser steps left out because something was not finite
        self.seconds = 0.0  # spent in optimiser steps, nothing else counted
        self._policy = model
        self.sharded = config.parallel == "fsdp"
        super().__init__(
            model=model,
            args=_arguments(config, seed, output, gradient_checkpointing),
            train_dataset=rows,
            data_collator=PairCollator(pad),
            callbacks=[_Clock(self), *(callbacks or [])],
        )
        self.loss_is_scaled_for_ga = True
        if self.sharded and distributed.world() > 1:
            sharded.shard(model, self._longest(rows, pad))
            self.is_distributed_loading_by_transformers = True  # neither wrapped nor moved

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """All micro-batches of an optimiser step, with the plan that they share."""
        self._step_started, self._columns = time.perf_counter(), []
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self._prepare_inputs(batch) for batch in batches]
        self._step_tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        with self.compute_loss_context_manager():
            self._plan = self.step_of.plan(unwrapped(self.model_wrapped), batches)
        self._first = batches[0] if self.state.global_step == 0 else None
        for index, batch in enumerate(batches):
            batch["index"] = torch.tensor(index)
        return batches, None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This micro-batch's part of the objective, times the ranks over which the backward averages."""
        assert self._plan is not None
        loss, columns = self.step_of.loss(model, inputs, self._plan, int(inputs["index"]))
        self._columns.append(columns)
        return loss * self.accelerator.num_processes

    def _longest(self, rows: TrainingRows, pad: int) -> Rows:
        """The pair that takes the widest packed row."""
        pairs = (rows[i] for i in range(len(rows)))
        longest = max(pairs, key=lambda row: sum(len(row[part]) for part in ("prompt", "chosen", "rejected")))
        return rows_of(PairCollator(pad)([longest])).to(next(self._policy.parameters()).device)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Linear warm-up, then linear, cosine or constant down to ``final_lr_ratio`` at the last step."""
        if self.lr_scheduler is None:
            c = self.config
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,  # type: ignore[arg-type]
                lambda step: learning_rate_factor(step, c),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Per-step metrics, handed to ``emit`` with the step."""
        if "grad_norm" not in logs:
            return
        metrics = self._metrics() | {
            "train/grad_norm": float(logs["grad_norm"]),
            "train/learning_rate": float(logs["learning_rate"]),
        }
        if distributed.rank() == 0:
            self.emit(self.state.global_step, metrics)

    def _metrics(self) -> dict[str, float]:
        assert self._plan is not None
        mine = self._pair_columns()
        c = {name: distributed.gathered(column, self._plan.pairs_of_ranks)[0] for name, column in mine.items()}
        beta, seconds = self.step_of.objective.beta, self._step_seconds
        accuracy = (1 + c["margin"].sign()) / 2 + 0 * c["margin"]  # a tie counts half; NaN stays NaN
        metrics = {
            "train/loss": (c["weight"] * c["loss"]).mean() + self._plan.diagnostics.get("penalty", 0.0),
            "train/nominal_loss": c["loss"].mean(),
            "train/rewards/accuracies": accuracy.mean(),
            "train/rewards/margins": beta * c["margin"].mean(),
            "train/rewards/chosen": beta * c["chosen"].mean(),
            "train/rewards/rejected": beta * c["rejected"].mean(),
            "robust/weight_max": c["weight"].max(),
            "cost/tokens_per_second": sum(tokens for (tokens,) in distributed.counts(self._step_tokens)) / seconds,
            "cost/step_seconds": seconds,
            "cost/memory_bytes": _memory(),
            "train/skipped": self.skipped,
        }
        value = self._plan.value
        if value is not None:
            metrics |= {
                "robust/ess": value.ess,
                "robust/divergence": value.divergence,
                "robust/pairs": value.n,
                "robust/clamped": value.clamped,
            }
            if math.isfinite(value.dual):
                metrics["robust/dual"] = value.dual
        metrics |= {f"robust/{name}": number for name, number in self._plan.diagnostics.items()}
        return {name: float(number) for name, number in metrics.items()}  # type: ignore[arg-type]

    def _save_checkpoint(self, model, trial) -> None:
        """Written beside the others and renamed, then the oldest are removed: the last is never the only copy."""
        self.before_save()
        root = Path(str(self.args.output_dir))
        staging = root / "incomplete"
        leads = distributed.rank() == 0
        if leads:
            shutil.rmtree(staging, ignore_errors=True)
        distributed.barrier()
        self._staging = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        distributed.barrier()
        if leads:
            self._complete(root, staging, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        distributed.barrier()

    def _complete(self, root: Path, staging: Path, name: str) -> None:
        state = {k: v.clone().contiguous() for k, v in self.step_of.state_dict().items()}
        save_file(state, staging / name / STATE)
        to_disk(staging / name)
        shutil.rmtree(root / name, ignore_errors=True)
        os.replace(staging / name, root / name)
        shutil.rmtree(staging)
        for old in checkpoints(root)[: -self.config.save_total_limit]:
            shutil.rmtree(old)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As a Trainer does; a sharded policy is saved together with the optimiser."""
        if not self.sharded:
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None
        whole = sharded.state(self._policy, self.optimizer)
        if distributed.rank() == 0:
            Path(output_dir).mkdir(parents=True)
            save_file(whole, Path(output_dir) / SHARDED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.sharded:
            sharded.load_policy(self._policy, load_file(Path(resume_from_checkpoint) / SHARDED))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        sharded.load_optimizer(self._policy, self.optimizer, load_file(Path(checkpoint) / SHARDED))
        step = int(Path(checkpoint).name.rsplit("-", 1)[1])  # the learning rate is a function of it alone
        self.lr_scheduler.load_state_dict(
            self.lr_scheduler.state_dict() | {"last_epoch": step - 1, "_step_count": step + 1}
        )
        self.lr_scheduler.step()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The gradient's norm; before the optimiser uses it, a step that has gone wrong is stopped or left out."""
        norm = super()._clip_grad_norm(model)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        columns = self._pair_columns()
        if self._first is not None:
            watch.check_start(columns, unwrapped(model), self._first)
        problem = watch.not_finite(columns, norm)
        if problem is not None:
            policy = unwrapped(model)
            if self.config.on_nonfinite == "stop" or distributed.anywhere(bool(watch.broken_parameters(policy))):
                raise watch.refusal(self.state.global_step + 1, problem, policy, self.config)
            self.skipped += 1
            model.zero_grad(set_to_none=True)  # an optimiser leaves a parameter without gradient alone
        return norm

    def _pair_columns(self) -> dict[str, torch.Tensor]:
        """The columns of this rank's pairs of the step, ``[N]`` each."""
        return {name: torch.cat([part[name] for part in self._columns]).float() for name in self._columns[0]}

    def _save_rng_state(self, output_dir: str) -> None:
        """Of rank 0; nothing in a step is random."""
        if distributed.rank() == 0:
            super()._save_rng_state(output_dir)

    _staging: Path | None = None

    def _get_output_dir(self, trial=None) -> str:
        return str(self._staging or super()._get_output_dir(trial))

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Train, from a checkpoint folder where one is given, with what the objective has learnt in it."""
        if resume_from_checkpoint is not None:
            self.step_of.load_state_dict(load_file(Path(resume_from_checkpoint) / STATE))
        result = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        if distributed.anywhere(bool(watch.broken_parameters(self._policy))):
            raise watch.refusal(self.state.global_step, "the policy is not finite", self._policy, self.config)
        return result


class _Clock(TrainerCallback):
    """Times optimiser steps, without what happens between them."""

    def __init__(self, trainer: PairTrainer) -> None:
        self.trainer = trainer

    def on_optimizer_step(self, args, state, control, **kwargs) -> None:
        trainer = self.trainer
        trainer._step_seconds = time.perf_counter() - trainer._step_started
        trainer.seconds += trainer._step_seconds


def learning_rate_factor(step: int, config: TrainerConfig) -> float:
    """Learning rate at ``step`` (from 0) over the peak."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    share = min(1.0, (step - config.warmup_steps) / max(1, config.max_steps - 1 - config.warmup_steps))
    fall = share if config.schedule == "linear" else (1 - math.cos(math.pi * share)) / 2
    return 1.0 - (1.0 - config.final_lr_ratio) * fall


def checkpoints(root: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [path for path in root.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / "trainer_state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def _memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss


def _arguments(config: TrainerConfig, seed: int, output: Path, gradient_checkpointing: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // (config.micro_batch_size * distributed.world()),
        learning_rate=config.learning_rate,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        logging_strategy="steps",
        logging_steps=config.log_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=max(1, config.save_steps),
        save_total_limit=None,
        train_sampling_strategy="sequential",
        dataloader_drop_last=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        activation_checkpointing=gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        report_to=[],
        use_cpu=config.device == "cpu" or not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        bf16=config.bf16,
        seed=seed,
        disable_tqdm=None if os.isatty(2) else True,
    )
