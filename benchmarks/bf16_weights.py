"""What bf16 does to margins, and through them to the weights of pairs.

One policy, at its reference (where margins are 0) and after ten steps of dpo, whose forward is in bf16: by autocast
over fp32 weights (``trainer.bf16=true``), with weights in bf16 (``model.dtype=bfloat16``), or either with the output
layer in fp32. In nats the sd of its margins, of their error against fp32, and between all pairs in one forward and one
by one. For each ambiguity set the total variation, 0 to 1, between the weights of bf16's losses and of fp32's: as they
come, and where losses within their rounding count as equal.

Run: python benchmarks/bf16_weights.py --pairs 64    (and --model smollm2_135m)
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import torch
from gradient_error import learn
from measure import Example, arguments, load, report, sampled_pairs
from step_cost import DPO, step
from torch import Tensor, nn

from robustalign.data.pairs import PairCollator
from robustalign.objectives import AmbiguitySet, CVaR, KLBall
from robustalign.policies.logprobs import sequence_logps
from robustalign.training.objective import build_objective
from robustalign.training.steps.plan import loss_rounding, pair_terms, rows_of

SETS: dict[str, AmbiguitySet] = {
    "kldpo tau=1": KLBall(temperature=1.0),
    "kldpo tau=.1": KLBall(temperature=0.1),
    "kldpo tau=.01": KLBall(temperature=0.01),
    "cvar 25%": CVaR(alpha=0.25),
}
STEPS = 10
LOSS = build_objective(DPO).loss


class Looks:
    """Margins and losses of a policy on pairs, in fp32."""

    precision = torch.float32

    def __init__(self, policy: nn.Module, pad: int) -> None:
        self.policy, self.collate = policy, PairCollator(pad)

    def context(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    @torch.no_grad()
    def __call__(self, pairs: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Margins, losses and their rounding, ``[N]`` each."""
        batch = self.collate(pairs)
        with self.context():
            logps = sequence_logps(self.policy, rows_of(batch))
        terms = pair_terms(batch, logps, self.precision)
        return terms.margin, LOSS.losses(terms), loss_rounding(batch, logps, LOSS, self.precision)


class Autocast(Looks):
    """The forward cast to bf16."""

    precision = torch.bfloat16

    def context(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cpu", torch.bfloat16)


class Half(Looks):
    """The weights in bf16."""

    precision = torch.bfloat16

    def __init__(self, policy: nn.Module, pad: int) -> None:
        super().__init__(copy.deepcopy(policy).to(torch.bfloat16), pad)


def wide_head(looks: Looks) -> Looks:
    """The same with its output layer in fp32."""
    looks.policy = copy.deepcopy(looks.policy)
    head = looks.policy.get_output_embeddings()

    def forward(hidden: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return nn.functional.linear(hidden.float(), head.weight.float())

    head.forward = forward
    return looks


def main() -> None:
    """Table and JSON."""
    options = arguments(__doc__, repeats=1)
    model, tokenizer = load(options)
    pad = tokenizer.pad_token_id
    pairs = sampled_pairs(model, pad, tokenizer.eos_token_id, options.pairs, options.prompt)
    trained = copy.deepcopy(model)
    learn(trained, step(trained, DPO, [PairCollator(pad)(pairs)]), STEPS)
    kinds: dict[str, Callable[[nn.Module, int], Looks]] = {
        "autocast": Autocast,
        "autocast, fp32 head": lambda policy, pad: wide_head(Autocast(policy, pad)),
        "bf16 weights": Half,
        "bf16 weights, fp32 head": lambda policy, pad: wide_head(Half(policy, pad)),
    }
    figures, rows = {}, []
    for when, policy in {"at the reference": model, f"after {STEPS} steps": trained}.items():
        exact = Looks(policy, pad)(pairs)
        for name, kind in kinds.items():
            found = compared(kind(policy, pad), exact, pairs)
            figures[f"{when}: {name}"] = found
            cells = [f"{found[f'{label}, plain']:.3f}, {found[f'{label}, ties']:.3f}" for label in SETS]
            rows.append([when, name, *(f"{found[key]:.2g}" for key in ("margin", "error", "cut")), *cells])
    header = ["policy", "forward", "margins, sd", "their error, sd", "between cuts, sd", *SETS]
    report("bf16: margins (nats), and how far weights are from fp32's (plain, ties)", header, rows, figures, options)


def compared(half: Looks, exact: tuple[Tensor, Tensor, Tensor], pairs: list[Example]) -> dict[str, float]:
    """The figures of a row of the table."""
    margins, losses, rounding = half(pairs)
    alone = torch.cat([half([pair])[0] for pair in pairs])
    found = {
        "margin": float(exact[0].std()),
        "error": float((margins - exact[0]).std()),
        "cut": float((margins - alone).std()),
    }
    for label, ball in SETS.items():
        truth = ball.step(exact[1], rounding=exact[2]).weights
        for way, off in {"plain": None, "ties": rounding}.items():
            weights = ball.step(losses, rounding=off).weights
            found[f"{label}, {way}"] = float((weights - truth).abs().mean() / 2)
    return found


if __name__ == "__main__":
    main()
