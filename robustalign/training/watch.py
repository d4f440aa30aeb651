"""What stops a training that has gone wrong: numbers that are not finite, and a policy that is not its reference.

Both are found from numbers that a step computes anyway, before the optimiser uses them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from robustalign.config import TrainerConfig
from robustalign.errors import ConfigError
from robustalign.policies.logprobs import sequence_logps
from robustalign.training import distributed
from robustalign.training.steps import Batch, rows_of

START = 10.0
"""The margin that a policy may have at its own reference, in units of its rounding; noise is thousands of them."""


def not_finite(columns: Mapping[str, Tensor], norm: Tensor | float) -> str | None:
    """What is not finite in a step, in words; None where everything is. All ranks must ask."""
    losses = int((~torch.isfinite(columns["loss"])).sum())
    if distributed.anywhere(losses > 0):
        return f"the loss of {losses} of {len(columns['loss'])} pairs is not finite"
    if distributed.anywhere(not bool(torch.isfinite(torch.as_tensor(norm)))):
        return f"the gradient's norm is {float(norm)}"
    return None


def broken_parameters(policy: nn.Module) -> list[str]:
    """The trainable parameters that hold NaN or infinities, by name."""
    names = []
    for name, parameter in policy.named_parameters():
        values = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if parameter.requires_grad and not bool(torch.isfinite(values).all()):
            names.append(name)
    return names


def refusal(step: int, problem: str, policy: nn.Module, config: TrainerConfig) -> ConfigError:
    """Why a training stops at ``step``, and what to try."""
    broken = broken_parameters(policy)
    since = f": {len(broken)} parameters are not finite since the last update, {broken[0]} first" if broken else ""
    tries = f"lower trainer.learning_rate (it is {config.learning_rate:g})"
    if config.max_grad_norm > 1:
        tries += f" or trainer.max_grad_norm ({config.max_grad_norm:g})"
    if not broken and config.on_nonfinite == "stop":
        tries += ", or leave such batches out with trainer.on_nonfinite=skip"
    return ConfigError("trainer.on_nonfinite", f"at step {step} {problem}{since}; {tries}")


def check_start(columns: Mapping[str, Tensor], policy: nn.Module, batch: Batch) -> None:
    """Refuse a policy that, before its first update, is not its own reference.

    Args:
        columns: ``margin`` and ``margin_rounding`` ``[N]`` of the first optimiser batch.
        policy: in training mode, not updated yet.
        batch: a micro-batch of that step.

    Raises:
        ConfigError: with the reason, as far as two more forwards tell it.
    """
    excess = columns["margin"].abs() - START * columns["margin_rounding"]
    if not distributed.anywhere(bool((excess > 0).any())):
        return
    largest = float(columns["margin"].abs().max())
    raise ConfigError(
        "model.path",
        f"before the first update the policy differs from its reference by a margin of up to {largest:.2g} nats: "
        + _reason(policy, batch),
    )


@torch.no_grad()
def _reason(policy: nn.Module, batch: Batch) -> str:
    def scored(training: bool) -> Tensor:
        return sequence_logps(policy.train(training), rows_of(batch))

    first, again, still = scored(True), scored(True), scored(False)
    policy.train()
    if not torch.equal(first, again):
        return "its forward is random in training, by noise that no rate of its config switches off; use another model"
    if float((first - still).abs().max()) > float((still - batch["ref_logps"]).abs().max()):
        return "it computes something else in training than in evaluation; use another model"
    return "the stored reference log-probabilities are not those of this policy; remove the cache (paths.cache)"
