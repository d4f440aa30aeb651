"""KLDPO in Lightning, exact over the devices of a step: run it by python.

The worst case belongs to all pairs of the optimiser batch, so the losses of all devices are gathered (without a graph),
and each device's mean is weighted by its share of the worst law; Lightning averages gradients over devices.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from robustalign.objectives import AmbiguitySet, KLBall, SigmoidLoss


class RobustReward(pl.LightningModule):
    """A linear reward under the worst case over an ambiguity set. One loader batch a step: no accumulation."""

    def __init__(self, ball: AmbiguitySet, loss: SigmoidLoss, features: int = 6) -> None:
        super().__init__()
        self.ball, self.loss = ball, loss
        self.reward = nn.Linear(features, 1, bias=False)
        self.values: list[float] = []

    def training_step(self, batch: tuple[Tensor], index: int) -> Tensor:
        """The weighted mean of this device's losses, whose gradient is that of the worst case."""
        losses = self.loss.losses(self.reward(batch[0])[:, 0])  # [B]
        everywhere = self.all_gather(losses.detach()).reshape(-1)  # [all pairs], this device's at its place
        worst = self.ball.step(everywhere)
        mine = slice(self.global_rank * len(losses), (self.global_rank + 1) * len(losses))
        self.values.append(float(worst.value))
        return (worst.weights[mine] * losses).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)


def main(steps: int = 50, ball: AmbiguitySet | None = None, **options: Any) -> RobustReward:
    """Train on made features; the module with the worst-case loss at every step."""
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.manual_seed(0)
    features = torch.randn(256, 6) + torch.tensor([1.0, 0, 0, 0, 0, 0])  # chosen minus rejected
    module = RobustReward(ball or KLBall(radius=0.2), SigmoidLoss(beta=1.0))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = pl.Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", devices=1, **quiet, **options)
    trainer.fit(module, DataLoader(TensorDataset(features), batch_size=64))
    return module


if __name__ == "__main__":
    trained = main()
    print(f"worst-case loss {trained.values[0]:.3f} -> {trained.values[-1]:.3f}")
