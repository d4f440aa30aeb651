"""Checkpoints hold what the optimiser knows of each parameter, and no more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustalign.config import TrainerConfig
from robustalign.training.checkpoints import complete, load_checkpoint, save_checkpoint

LEARNT = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)


def trained(steps: int, policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Steps in which the second layer has no part."""
    for _ in range(steps):
        policy[0](torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def fresh(**options: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    return policy, torch.optim.AdamW(policy.parameters(), lr=0.1, **options)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"amsgrad": True}])
def test_a_parameter_without_a_gradient_does_not_stop_a_resume(tmp_path: Path, options: dict[str, bool]) -> None:
    policy, optimizer = fresh(**options)
    trained(3, policy, optimizer)
    save_checkpoint(tmp_path, 3, policy, optimizer, LEARNT, TrainerConfig())
    trained(3, policy, optimizer)
    again, resumed = fresh(**options)
    assert load_checkpoint(complete(tmp_path)[-1], again, resumed, LEARNT) == 3
    assert list(resumed.state) == list(again[0].parameters())
    trained(3, again, resumed)
    for expected, value in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(expected, value)


def test_the_state_lies_on_the_device_of_its_parameter(tmp_path: Path) -> None:
    policy, optimizer = fresh()
    trained(1, policy, optimizer)
    save_checkpoint(tmp_path, 1, policy, optimizer, LEARNT, TrainerConfig())
    elsewhere = nn.Sequential(nn.Linear(3, 2, device="meta"), nn.Linear(3, 2, device="meta"))
    resumed = torch.optim.AdamW(elsewhere.parameters(), lr=0.1)
    load_checkpoint(complete(tmp_path)[-1], elsewhere, resumed, LEARNT)
    assert {part.device.type for state in resumed.state.values() for part in state.values()} == {"meta"}
