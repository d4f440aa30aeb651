"""KLDPO with accelerate, exact over gradient accumulation and processes: run it by ``accelerate launch`` or python.

The worst case belongs to the whole optimiser batch, so its pairs' losses are looked at first, without a graph, over all
micro-batches and processes; each micro-batch is then weighted by its share of the worst law.
"""

from __future__ import annotations

import contextlib

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from robustalign.objectives import AmbiguitySet, KLBall, SigmoidLoss


def robust_step(
    accelerator: Accelerator, model: nn.Module, batches: list[dict[str, Tensor]], ball: AmbiguitySet, loss: SigmoidLoss
) -> float:
    """The gradient of the worst case over ``batches`` of equal size, left in ``model``; its value."""
    with torch.no_grad():
        here = torch.cat([loss.losses(model(batch["features"])[:, 0]) for batch in batches])
    everywhere = accelerator.gather(here)  # [all pairs], this process's at its place
    worst = ball.step(everywhere)
    start = accelerator.process_index * len(here)
    weights = worst.weights[start : start + len(here)].split([len(batch["features"]) for batch in batches])
    for number, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
        context = accelerator.no_sync(model) if number + 1 < len(batches) else contextlib.nullcontext()
        with context:
            losses = loss.losses(model(batch["features"])[:, 0])  # [B]
            accelerator.backward((weight * losses).mean() / len(batches))
    return float(worst.value)


def main(steps: int = 50) -> list[float]:
    """A linear reward on made features; the worst-case loss at every step."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    features = torch.randn(256, 6) + torch.tensor([1.0, 0, 0, 0, 0, 0])  # chosen minus rejected
    model = accelerator.prepare(nn.Linear(6, 1, bias=False))
    optimiser = accelerator.prepare(torch.optim.Adam(model.parameters(), lr=0.05))
    values = []
    for step in range(steps):
        rows = [(step * 64 + start) % 256 for start in range(0, 64, 16)]
        batches = [{"features": features[row : row + 16]} for row in rows]
        values.append(robust_step(accelerator, model, batches, KLBall(radius=0.2), SigmoidLoss(beta=1.0)))
        optimiser.step()
        optimiser.zero_grad()
    if accelerator.is_main_process:
        print(f"worst-case loss {values[0]:.3f} -> {values[-1]:.3f}")
    return values


if __name__ == "__main__":
    main()
