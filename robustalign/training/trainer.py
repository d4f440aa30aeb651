"""The training loop: whole optimiser batches to the objective, gradients to the optimiser.

Data order and learning rate are functions of the config and the step alone, and a step's random numbers of the seed
and the step, so an interrupted run that resumes ends with the parameters of an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from tqdm import trange

from robustalign.config import TrainerConfig
from robustalign.data.pairs import PairCollator, TrainingRows
from robustalign.policies.logprobs import unwrapped
from robustalign.policies.packing import Rows
from robustalign.training import checkpoints, distributed, sharded, watch
from robustalign.training.objective import Objective
from robustalign.training.steps import Batch, Plan, objective_step, rows_of

Log = Callable[[int, dict[str, float]], None]


class PairTrainer:
    """Trains ``policy`` on ``rows`` under ``objective``.

    Args:
        policy: on the device where it is to be trained.
        rows: ``batch_size`` examples for each step, in the order of training.
        pad: the id that fills rows up.
        output: the folder of checkpoints.
        log: called on rank 0 with a step and its metrics, every ``log_steps`` steps.
        before_save: called before a checkpoint is written, to secure what ``log`` has received until then.
        after_step: called on every rank after each step, with its number; true: save a checkpoint and stop.
    """

    def __init__(
        self,
        policy: nn.Module,
        rows: TrainingRows,
        objective: Objective,
        config: TrainerConfig,
        *,
        pad: int,
        seed: int,
        output: Path,
        log: Log,
        before_save: Callable[[], None] = lambda: None,
        after_step: Callable[[int], bool] = lambda step: False,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.step_of = objective_step(objective)
        self.policy, self.rows, self.config, self.seed = policy, rows, config, seed
        self.collate, self.output = PairCollator(pad), output
        self.emit, self.before_save, self.after_step = log, before_save, after_step
        self.step = 0  # optimiser steps that were taken
        self.skipped = 0  # of these, steps left out because something was not finite
        self.seconds = 0.0  # spent in optimiser steps, nothing else counted
        if gradient_checkpointing:
            unwrapped(policy).gradient_checkpointing_enable({"use_reentrant": False})
        self.device = next(policy.parameters()).device
        self.model = self._wrapped()
        self.optimizer = torch.optim.AdamW(
            _decayed(policy, config.weight_decay),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            fused=True,
        )

    def train(self, checkpoint: Path | None = None) -> None:
        """Train to ``max_steps``, from a checkpoint where one is given, or until ``after_step`` says stop.

        Raises:
            ConfigError: something is not finite, or the policy is not its reference before the first update.
        """
        config = self.config
        if checkpoint is not None:
            self.step = checkpoints.load_checkpoint(checkpoint, self.policy, self.optimizer, self.step_of)
        steps = trange(
            self.step, config.steps, initial=self.step, total=config.steps, desc="train",
            disable=distributed.rank() > 0 or not os.isatty(2),
        )  # fmt: skip
        self.model.train()
        for _ in steps:
            self._step()
            stop = self.after_step(self.step)
            last = self.step == config.steps
            if (config.save_steps and (last or self.step % config.save_steps == 0)) or (stop and not last):
                self.before_save()
                checkpoints.save_checkpoint(self.output, self.step, self.policy, self.optimizer, self.step_of, config)
            if stop:
                break
        if distributed.anywhere(bool(watch.broken_parameters(self.policy))):
            raise watch.refusal(self.step, "the policy is not finite", self.policy, config)

    def _wrapped(self) -> nn.Module:
        """The policy, in the wrapper that averages gradients over ranks where there are several."""
        several = distributed.world() > 1
        if several and self.config.parallel == "fsdp":
            sharded.shard(self.policy, self._longest())
        elif several:
            return DistributedDataParallel(
                self.policy, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        return self.policy

    def _longest(self) -> Rows:
        """The pair that takes the widest packed row."""
        pairs = (self.rows[i] for i in range(len(self.rows)))
        longest = max(pairs, key=lambda row: sum(len(row[part]) for part in ("prompt", "chosen", "rejected")))
        return rows_of(self.collate([longest])).to(self.device)

    def _batches(self) -> list[Batch]:
        """This rank's micro-batches of the step at hand."""
        size, ranks = self.config.micro_batch_size, distributed.world()
        first, batches = self.step * self.config.batch_size, []
        for number in range(distributed.rank(), self.config.batch_size // size, ranks):
            examples = [self.rows[first + number * size + place] for place in range(size)]
            batches.append({name: column.to(self.device) for name, column in self.collate(examples).items()})
        return batches

    def _step(self) -> None:
        """One optimiser step."""
        began = time.perf_counter()
        torch.manual_seed((self.seed << 32) + self.step)
        batches = self._batches()
        rate = self.config.learning_rate * learning_rate_factor(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._autocast():
            plan = self.step_of.plan(self.policy, batches)
        columns = self._backward(batches, plan)
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self._sound(columns, norm, batches[0]):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        seconds = time.perf_counter() - began
        self.seconds += seconds
        if self.step % self.config.log_steps == 0:
            tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
            metrics = self._metrics(columns, plan, tokens, seconds)
            if distributed.rank() == 0:
                self.emit(self.step, metrics | {"train/grad_norm": float(norm), "train/learning_rate": rate})

    def _backward(self, batches: list[Batch], plan: Plan) -> dict[str, Tensor]:
        """The objective's gradient, summed over micro-batches and ranks; the columns ``[N]`` of this rank's pairs."""
        parts: list[dict[str, Tensor]] = []
        for index in reversed(range(len(batches))):
            with self._averaging(last=index == 0):
                with self._autocast():
                    loss, columns = self.step_of.loss(self.model, batches[index], plan, index)
                (loss * distributed.world()).backward()
            parts.insert(0, columns)
        return {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}

    def _averaging(self, last: bool) -> contextlib.AbstractContextManager:
        """Ranks exchange gradients in the last micro-batch alone."""
        wrapped = isinstance(self.model, DistributedDataParallel)
        return self.model.no_sync() if wrapped and not last else contextlib.nullcontext()  # type: ignore[operator]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16)

    def _sound(self, columns: dict[str, Tensor], norm: Tensor, batch: Batch) -> bool:
        """Whether the optimiser may use this step's gradient.

        Raises:
            ConfigError: it may not, and training is to stop then.
        """
        policy = unwrapped(self.policy)
        if self.step == 0:
            watch.check_start(columns, policy, batch)
        problem = watch.not_finite(columns, norm)
        if problem is None:
            return True
        if self.config.on_nonfinite == "stop" or distributed.anywhere(bool(watch.broken_parameters(policy))):
            raise watch.refusal(self.step + 1, problem, policy, self.config)
        self.skipped += 1
        return False

    def _metrics(self, columns: dict[str, Tensor], plan: Plan, tokens: int, seconds: float) -> dict[str, float]:
        """What is logged of a step, over the pairs of all ranks."""
        c = {name: distributed.gathered(column, plan.pairs_of_ranks)[0] for name, column in columns.items()}
        beta = self.step_of.objective.beta
        accuracy = (1 + c["margin"].sign()) / 2 + 0 * c["margin"]  # a tie counts half; NaN stays NaN
        metrics: dict[str, Any] = {
            "train/loss": (c["weight"] * c["loss"]).mean() + plan.diagnostics.get("penalty", 0.0),
            "train/nominal_loss": c["loss"].mean(),
            "train/rewards/accuracies": accuracy.mean(),
            "train/rewards/margins": beta * c["margin"].mean(),
            "train/rewards/chosen": beta * c["chosen"].mean(),
            "train/rewards/rejected": beta * c["rejected"].mean(),
            "robust/weight_max": c["weight"].max(),
            "cost/tokens_per_second": sum(there for (there,) in distributed.counts(tokens)) / seconds,
            "cost/step_seconds": seconds,
            "cost/memory_bytes": _memory(),
            "train/skipped": self.skipped,
        }
        if plan.value is not None:
            metrics |= {f"robust/{name}": getattr(plan.value, name) for name in ("ess", "divergence", "clamped")}
            metrics["robust/pairs"] = plan.value.n
            if math.isfinite(plan.value.dual):
                metrics["robust/dual"] = plan.value.dual
        metrics |= {f"robust/{name}": number for name, number in plan.diagnostics.items()}
        return {name: float(number) for name, number in metrics.items()}


def learning_rate_factor(step: int, config: TrainerConfig) -> float:
    """Learning rate at ``step`` (from 0) over the peak."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    share = min(1.0, (step - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps))
    fall = share if config.schedule == "linear" else (1 - math.cos(math.pi * share)) / 2
    return 1.0 - (1.0 - config.final_lr_ratio) * fall


def _decayed(policy: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay is for matrices: biases and the scales of norms have one dimension and are left alone."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    others = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
