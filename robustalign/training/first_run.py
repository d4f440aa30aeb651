"""A short run on one process before the real one, for the losses of an early policy."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from robustalign.config import TrainerConfig
from robustalign.data.pairs import PairCollator, TrainingRows
from robustalign.policies.logprobs import sequence_logps
from robustalign.training.objective import Objective
from robustalign.training.steps import pair_terms, rows_of
from robustalign.training.trainer import learning_rate_factor


def first_run(
    policy: PreTrainedModel, rows: TrainingRows, objective: Objective, config: TrainerConfig, *, steps: int, pad: int
) -> np.ndarray:
    """Train ``policy`` in place on the first ``steps`` batches of ``rows``; the set looks at each micro-batch alone.

    Returns:
        ``[steps]``: mean loss of each batch before its step, weighted by the rows' weights; no pair of a first epoch
        was trained on before. NaN where a batch has no weight.
    """
    collate, device = PairCollator(pad), next(policy.parameters()).device
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
    )
    mean_losses = np.full(steps, np.nan)
    policy.train()
    for step in range(steps):
        first = step * config.batch_size
        losses, weights = [], []
        optimizer.zero_grad()
        for start in range(first, first + config.batch_size, config.micro_batch_size):
            batch = collate([rows[i] for i in range(start, start + config.micro_batch_size)])
            batch = {name: column.to(device) for name, column in batch.items()}
            weight = batch.get("weight", torch.ones(config.micro_batch_size, device=device))
            if bool(weight.any()):
                loss = objective.loss.losses(pair_terms(batch, sequence_logps(policy, rows_of(batch))))
                value = objective.set.step(loss, weight=weight).value
                (value * weight.sum() / config.batch_size).backward()
                losses.append(loss.detach())
                weights.append(weight)
        if not losses:
            continue
        mean_losses[step] = float((torch.cat(losses) * torch.cat(weights)).sum() / torch.cat(weights).sum())
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        optimizer.step()
    policy.eval()
    return mean_losses
