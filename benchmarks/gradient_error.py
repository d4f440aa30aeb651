"""Error of WDPO's first-order gradients against the exact double backward, by radius.

Relative error of the whole parameter gradient; ``share`` is the norm of the penalty's own gradient over the whole,
which is the error of leaving the penalty out.

Run: python benchmarks/gradient_error.py
"""

from __future__ import annotations

import torch
from measure import arguments, load, report, sampled_pairs
from step_cost import DPO, WDPO, step

from robustalign.data.pairs import PairCollator

RADII = (0.001, 0.003, 0.01, 0.03, 0.1)
FORMS = ("moved", "forward", "central")


def main() -> None:
    """Table and JSON."""
    options = arguments(__doc__, repeats=1)
    model, tokenizer = load(options)
    pairs = sampled_pairs(model, tokenizer.pad_token_id, tokenizer.eos_token_id, options.pairs, options.prompt)
    batch = PairCollator(tokenizer.pad_token_id)(pairs)
    batch = {key: column.to(options.device) for key, column in batch.items()}

    def gradient(method: dict) -> torch.Tensor:
        step(model, method, [batch])()
        return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])

    learn(model, lambda: gradient(DPO))
    nominal, figures, rows = gradient(DPO), {}, []
    for radius in RADII:
        exact = gradient(WDPO | {"radius": radius, "gradient": "exact"})
        errors = {
            form: float((gradient(WDPO | {"radius": radius, "gradient": form}) - exact).norm() / exact.norm())
            for form in FORMS
        }
        share = float((exact - nominal).norm() / exact.norm())
        figures[str(radius)] = errors | {"share": share}
        rows.append([f"{radius:g}", f"{share:.2g}", *(f"{errors[form]:.1e}" for form in FORMS)])
    report("Error of first-order gradients", ["relative radius", "share", *FORMS], rows, figures, options)


def learn(model: torch.nn.Module, gradient, steps: int = 5) -> None:
    """A few DPO steps, so that the policy is not its own reference."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(steps):
        gradient()
        optimiser.step()


if __name__ == "__main__":
    main()
