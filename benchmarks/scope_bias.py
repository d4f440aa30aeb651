"""How much of the population's worst case a batch of N pairs sees, by scope; prints markdown tables.

Population: 10,000 DPO losses softplus(-z), z normal with mean 1 and deviation 1. The share is
E[robust value of a batch - population mean] / (population's worst case - population mean), over an epoch in random
order: 100 % is unbiased. ``microbatch`` cuts the batch into four, ``batch`` pools it, ``stream`` pools it with the
fading memory of earlier batches. ``spread`` is the standard deviation of a batch's mean weight, the price of a
stream: its weights have mean 1 over time only.

The second part lets the policy learn during one epoch: z grows linearly from 0 to its final value, so that old
losses are stale, and the target moves with every step.

Run: python benchmarks/scope_bias.py (under a minute on one thread)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import softplus

from robustalign.objectives import ChiSquareBall, CVaR, KLBall
from robustalign.objectives.streaming import FORGOTTEN, StreamingSet

PAIRS = 10_000
SIZES = (4, 16, 64, 256)
MEMORIES = (128, 512, 2048)
SETS: dict[str, StreamingSet] = {
    "KL radius 0.1": KLBall(radius=0.1),
    "KL radius 0.5": KLBall(radius=0.5),
    "KL temperature 0.3": KLBall(temperature=0.3),
    "chi-square 0.1": ChiSquareBall(radius=0.1),
    "chi-square 0.5": ChiSquareBall(radius=0.5),
    "CVaR 0.1": CVaR(alpha=0.1),
}
MOVING = ("KL radius 0.1", "KL radius 0.5", "chi-square 0.5", "CVaR 0.1")


def batches(size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of an epoch's batches; a ragged last one is left out."""
    order = torch.randperm(PAIRS, generator=generator)
    return iter(order[: PAIRS // size * size].view(-1, size))


def share(ambiguity: StreamingSet, margins: Tensor, size: int, generator: torch.Generator) -> tuple[float, float]:
    """Share of the population's excess that batches see, and the deviation of their mean weight."""
    losses = softplus(-margins)
    if ambiguity.streaming:
        ambiguity = replace(ambiguity)  # without memory
        for index in batches(size, generator):
            ambiguity.step(losses[index])
            if len(ambiguity.state_dict()["ages"]) >= FORGOTTEN * ambiguity.memory - size:
                break
    robust = [ambiguity.step(losses[index]) for index in batches(size, generator)]
    values = torch.stack([r.value for r in robust])
    excess = float(replace(ambiguity, streaming=False).worst_case(losses).value - losses.mean())
    return float(values.mean() - losses.mean()) / excess, float(torch.stack([r.weights.mean() for r in robust]).std())


def moving_share(ambiguity: StreamingSet, margins: Tensor, size: int, generator: torch.Generator) -> float:
    """The share over an epoch in which the margins grow from 0, against the population at the same moment."""
    ambiguity, seen, there = replace(ambiguity), 0.0, 0.0
    still, steps = replace(ambiguity, streaming=False), PAIRS // size
    for t, index in enumerate(batches(size, generator)):
        losses = softplus(-margins * (t / steps))
        seen += float(ambiguity.step(losses[index]).value - losses.mean())
        if t % max(1, steps // 100) == 0:
            there += float(still.worst_case(losses).value - losses.mean()) * max(1, steps // 100)
    return seen / there


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")


def standing(margins: Tensor) -> None:
    """Table 1: a policy that stands still."""
    rows = []
    for name, ambiguity in SETS.items():
        cells = {1: "0 %"}  # a single pair is its own worst case
        for size in SIZES:
            cells[size] = f"{share(ambiguity, margins, size, torch.Generator().manual_seed(size))[0]:.0%}"
        stream = replace(ambiguity, streaming=True)
        for size in SIZES:
            seen, spread = share(stream, margins, size, torch.Generator().manual_seed(size))
            rows.append([name, str(size), cells[size // 4], cells[size], f"{seen:.0%}", f"{spread:.2f}"])
    print_table(["set", "N", "microbatch (N/4)", "batch", "stream", "spread"], rows)


def learning(margins: Tensor) -> None:
    """Table 2: a policy that learns within one epoch, by memory."""
    rows = []
    for name in MOVING:
        for size in (16, 64):
            sets = [SETS[name], *(replace(SETS[name], streaming=True, memory=memory) for memory in MEMORIES)]
            seen = [moving_share(s, margins, size, torch.Generator().manual_seed(size)) for s in sets]
            rows.append([name, str(size), *(f"{s:.0%}" for s in seen)])
    print_table(["set", "N", "batch", *(f"stream, memory {memory}" for memory in MEMORIES)], rows)


def main() -> None:
    """Both tables."""
    torch.set_num_threads(1)
    start = time.process_time()
    margins = 1 + torch.randn(PAIRS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    standing(margins)
    print()
    learning(margins)
    print(f"\n{time.process_time() - start:.0f} CPU seconds")


if __name__ == "__main__":
    main()
