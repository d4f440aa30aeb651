"""A policy whose parameters are spread over the ranks (FSDP2), and its checkpoints, which are in one piece."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from robustalign.policies.logprobs import takes_block_masks, unwrapped
from robustalign.policies.packing import Rows
from robustalign.training import distributed


def shard(policy: nn.Module, longest: Rows | None = None) -> None:
    """Spread the parameters over the ranks, in place: each block by itself, then what is left, embeddings included.

    ``longest``: the widest rows that will be packed, on the policy's device.
    """
    takes_block_masks(policy, longest)  # the comparison needs a forward, which ranks could not run alone afterwards
    mesh = init_device_mesh(next(policy.parameters()).device.type, (dist.get_world_size(),))
    blocks = unwrapped(policy)._no_split_modules or ()
    for module in list(policy.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh)
    fully_shard(policy, mesh=mesh)


def whole(policy: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, on rank 0 in one piece on the CPU; every rank takes part."""
    parameters = {name: _gathered(parameter) for name, parameter in _trainable(policy)}
    return {name: value for name, value in parameters.items() if value is not None}


def state(policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters and the optimiser's state of each, on rank 0; every rank takes part."""
    tensors = {f"policy/{name}": value for name, value in whole(policy).items()}
    for name, parameter in _trainable(policy):
        for key, part in optimizer.state[parameter].items():
            value = _gathered(part)
            if value is not None:
                tensors[f"{key}/{name}"] = value
    return tensors


def load_policy(policy: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Load the parameters of :func:`state`, whatever number of ranks saved them."""
    with torch.no_grad():
        for name, parameter in _trainable(policy):
            parameter.copy_(_spread(saved[f"policy/{name}"], parameter))


def load_optimizer(policy: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Load the optimiser's state of :func:`state`; a parameter that never had a gradient has none."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, part in saved.items():
        kind, _, name = key.partition("/")
        if kind != "policy":
            by_parameter.setdefault(name, {})[kind] = part
    for name, parameter in _trainable(policy):
        if name in by_parameter:
            optimizer.state[parameter] = {
                kind: _spread(part, parameter) if part.shape == parameter.shape else part.to(parameter.device)
                for kind, part in by_parameter[name].items()
            }


def _trainable(policy: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]


def _gathered(tensor: Tensor) -> Tensor | None:
    value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return value.detach().cpu() if distributed.rank() == 0 else None


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank holds whole."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
