"""The examples do what they say."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from robustalign.objectives import KLBall, SigmoidLoss

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_loop_serves_the_minority_better() -> None:
    worst = load("plain_loop").main()
    assert worst["kldpo"] < worst["dpo"]


def test_the_accelerate_loop_learns() -> None:
    values = load("accelerate_loop").main()
    assert values[0] > math.log(2) / 2 and values[-1] < 0.8 * values[0]


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    from accelerate import Accelerator

    torch.manual_seed(0)
    model, features = nn.Linear(6, 1, bias=False), torch.randn(32, 6)
    parts = [{"features": part} for part in features.split(8)]
    ball, loss = KLBall(radius=0.3), SigmoidLoss(beta=1.0)
    load("accelerate_loop").robust_step(Accelerator(cpu=True), model, parts, ball, loss)
    accumulated = model.weight.grad.clone()
    model.zero_grad()
    ball.worst_case(loss.losses(model(features)[:, 0])).value.backward()
    assert accumulated == pytest.approx(model.weight.grad, rel=1e-5, abs=1e-8)


def test_the_lightning_module_trains_what_a_loop_does() -> None:
    pytest.importorskip("pytorch_lightning")
    example = load("lightning_module")
    trained = example.main(steps=12)
    torch.manual_seed(0)
    features = torch.randn(256, 6) + torch.tensor([1.0, 0, 0, 0, 0, 0])
    reward, ball, loss = nn.Linear(6, 1, bias=False), KLBall(radius=0.2), SigmoidLoss(beta=1.0)
    optimiser, values = torch.optim.Adam(reward.parameters(), lr=0.05), []
    for step in range(12):
        optimiser.zero_grad()
        worst = ball.worst_case(loss.losses(reward(features.split(64)[step % 4])[:, 0])).value
        worst.backward()
        optimiser.step()
        values.append(float(worst))
    assert trained.values == pytest.approx(values, rel=1e-5) and values[-1] < values[0]
    assert trained.reward.weight.detach() == pytest.approx(reward.weight.detach(), rel=1e-4)
