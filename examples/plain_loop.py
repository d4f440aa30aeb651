"""KLDPO in a training loop of one's own: nothing of robustalign but its objectives.

The policy and its data are a toy (a table of logits over eight replies to each of sixteen prompts), so that the file
runs anywhere in a second; replace ``margins`` by those of a language model.
"""

from __future__ import annotations

import torch

from robustalign.objectives import KLBall, SigmoidLoss


def main(steps: int = 200, radius: float = 0.2) -> dict[str, float]:
    """Train with and without an ambiguity set; the worst group's loss of both."""
    generator = torch.Generator().manual_seed(0)
    minority = torch.arange(256) % 10 == 0  # one person in ten prefers the opposite in half of the prompts
    prompt = torch.randint(16, (256,), generator=generator)
    first, second = torch.randint(4, (256,), generator=generator), torch.randint(4, 8, (256,), generator=generator)
    swap = minority & (prompt < 8)
    chosen, rejected = torch.where(swap, second, first), torch.where(swap, first, second)

    def margins(policy: torch.Tensor) -> torch.Tensor:
        logps = policy.log_softmax(1)  # [16, 8]; the reference is uniform and cancels
        return logps[prompt, chosen] - logps[prompt, rejected]

    loss, worst = SigmoidLoss(beta=1.0), {}
    for name, ball in (("dpo", None), ("kldpo", KLBall(radius=radius))):
        policy = torch.zeros(16, 8, requires_grad=True)
        optimiser = torch.optim.Adam([policy], lr=0.05)
        for _ in range(steps):
            losses = loss.losses(margins(policy))  # [N]
            value = losses.mean() if ball is None else ball.worst_case(losses).value
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        losses = loss.losses(margins(policy)).detach()
        worst[name] = float(losses[minority].mean())
        print(f"{name:6} majority {losses[~minority].mean():.3f}  minority {losses[minority].mean():.3f}")
    return worst


if __name__ == "__main__":
    main()
