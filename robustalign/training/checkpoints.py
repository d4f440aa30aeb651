"""Checkpoints: the policy, the optimiser and the state of the objective, as safetensors in one folder for each step.

A checkpoint does not depend on the number of ranks that wrote it, nor on whether parameters were spread over them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustalign.config import TrainerConfig
from robustalign.files import to_disk
from robustalign.training import distributed, sharded
from robustalign.training.steps import WeightStep

NAME = "step-{}"
TRAINING, OBJECTIVE = "training.safetensors", "objective.safetensors"


def complete(root: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    folders = [path for path in root.glob(NAME.format("*")) if (path / TRAINING).is_file()]
    return sorted(folders, key=_step)


def save_checkpoint(
    root: Path,
    step: int,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    learnt: WeightStep,
    config: TrainerConfig,
) -> None:
    """Write a checkpoint beside the others and rename it, then remove the oldest: the last is never the only copy.

    All ranks take part; the first writes.
    """
    state = sharded.state(policy, optimizer)
    if distributed.rank() == 0:
        staging, final = root / "incomplete", root / NAME.format(step)
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file({name: value.contiguous() for name, value in state.items()}, staging / TRAINING)
        save_file({k: v.clone().contiguous() for k, v in learnt.state_dict().items()}, staging / OBJECTIVE)
        to_disk(staging)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
        for old in complete(root)[: -config.save_total_limit]:
            shutil.rmtree(old)
    distributed.barrier()


def load_checkpoint(path: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, learnt: WeightStep) -> int:
    """Load what :func:`save_checkpoint` wrote; returns the number of steps that were taken until then."""
    saved = load_file(path / TRAINING)
    sharded.load_policy(policy, saved)
    sharded.load_optimizer(policy, optimizer, saved)
    learnt.load_state_dict(load_file(path / OBJECTIVE))
    return _step(path)


def _step(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
