"""Every method that ships composes, trains and does not depend on how its batch is cut; the paper's methods by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustalign.config import config_dir
from robustalign.data.pairs import PairCollator
from robustalign.policies.familiarity import policy_weight
from robustalign.policies.logprobs import Rows, sequence_logps
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step, pair_terms, rows_of
from tests.conftest import compose_config, tiny_gpt2
from tests.training.test_step import examples, gradient

PRESETS = sorted({path.stem for path in (config_dir() / "method").glob("*.yaml")} - {"audit"})  # which trains nothing
POOLED = [name for name in PRESETS if name != "kldpo_released"]


def preset(name: str) -> dict:
    return compose_config(f"method={name}").method


def rows(count: int = 12) -> list[dict]:
    """Pairs with every column that a method may ask for."""
    return [
        row | {"group": i % 3, "soft_label": 0.55 + 0.4 * (i / count), "weight": 0.5 + (i % 4) / 2}
        for i, row in enumerate(examples(count))
    ]


def test_the_presets_asked_for_exist() -> None:
    assert set(PRESETS) >= {
        "dpo", "kldpo", "wdpo", "drdpo", "oracle", "kldpo_paper", "kldpo_released", "wdpo_paper", "wdpo_released",
        "cdpo", "rdpo", "ipo", "simpo", "cvar", "chi2", "tv", "group_robust", "dpo_pro", "chi_po", "mixdpo", "wpo",
        "beta_dpo", "logits_sam",
    }  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_two_steps_of_training_lower_the_loss_of_the_batch(name: str) -> None:
    method, model = preset(name), tiny_gpt2(torch.float64)
    assert method["name"] == name, "the name in tables is the name of the file"
    step, batch = objective_step(build_objective(method, batch_size=12)), PairCollator(pad=0)(rows())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(2):
        plan = step.plan(model, [batch])
        loss, columns = step.loss(model, batch, plan, 0)
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            after = plan.loss.losses(pair_terms(batch, sequence_logps(model, rows_of(batch))))
        if plan.statistics is None:
            worst = columns["weight"] * (after - columns["loss"])
            assert float(worst.sum()) < 0, "the step descends on the worst law it was taken for"


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 4, 3]], ids=["12x1", "ragged"])
@pytest.mark.parametrize("name", POOLED)
def test_the_cut_into_micro_batches_changes_nothing(name: str, sizes: list[int]) -> None:
    method = preset(name)
    assert method.get("scope", "batch") == "batch"
    model = tiny_gpt2(torch.float64)
    whole, cut = gradient(model, method, rows(), [12]), gradient(model, method, rows(), sizes)
    assert cut[0] == pytest.approx(whole[0], rel=1e-9)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-7, atol=1e-10 * float(whole[1].abs().max()))


def test_kldpo_paper_by_hand() -> None:
    """Losses 0.2, 0.7, 0.7 + 0.5 ln 3 at temperature 0.5: the tilts are e^0.4 (1, e, 3 e)."""
    losses = torch.tensor([0.2, 0.7, 0.7 + 0.5 * math.log(3)], dtype=torch.float64)
    total = 1 + 4 * math.e
    value = (0.2 + math.e * 0.7 + 3 * math.e * (0.7 + 0.5 * math.log(3))) / total
    found = build_objective(preset("kldpo_paper")).set.worst_case(losses)
    assert found.weights.tolist() == pytest.approx([3 / total, 3 * math.e / total, 9 * math.e / total], rel=1e-12)
    assert float(found.value) == pytest.approx(value, rel=1e-12)


def test_kldpo_released_by_hand() -> None:
    """Losses 0.6, 0.65, 0.85 have the mean 0.7: weights e^-2, e^-1 and e^3 = 20.1, cut at 10; the mean of the weighted
    losses, with no division by the weights' sum."""
    losses = torch.tensor([0.6, 0.65, 0.85], dtype=torch.float64)
    found = build_objective(preset("kldpo_released")).set.worst_case(losses)
    assert found.weights.tolist() == pytest.approx([math.exp(-2), math.exp(-1), 10.0], rel=1e-12)
    assert float(found.value) == pytest.approx((0.6 * math.exp(-2) + 0.65 * math.exp(-1) + 8.5) / 3, rel=1e-12)
    assert found.clamped == pytest.approx(1 / 3)


def test_kldpo_released_looks_at_one_micro_batch() -> None:
    """With one pair a micro-batch every weight is exp(0) = 1: DPO."""
    model = tiny_gpt2(torch.float64)
    released = gradient(model, preset("kldpo_released"), examples(), [1] * 12)[1]
    dpo = gradient(model, preset("dpo") | {"beta": 0.01}, examples(), [12])[1]
    torch.testing.assert_close(released, dpo, rtol=1e-9, atol=1e-12 * float(dpo.abs().max()))


class Bigrams(nn.Module):
    """logits = W x: the log-odds of two next tokens a and b are x . (W_a - W_b), whatever the normaliser."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(_attn_implementation=None)
        self.tokens, self.head = (
            nn.Embedding(6, 2, dtype=torch.float64),
            nn.Linear(2, 6, bias=False, dtype=torch.float64),
        )
        table = torch.tensor([[0, 0], [1, 2], [-1, 1], [2, 0], [0, 1], [1, -1]], dtype=torch.float64)
        self.tokens.weight.data, self.head.weight.data = table, 0.5 * table.flip(1)

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.tokens(input_ids)))


PAIRS = [(1, 3, 4), (2, 4, 5)]  # prompt, chosen, rejected: one token each
BETA, RADIUS = 0.01, 0.01


def bigram_batch() -> dict[str, Tensor]:
    pairs = [
        {"row": i, "prompt": [s], "chosen": [a], "rejected": [b], "reference": (-1.0, -2.0), "score_gap": 1.0}
        for i, (s, a, b) in enumerate(PAIRS)
    ]
    return PairCollator(pad=0)(pairs)


def by_hand(model: Bigrams, prompt: str) -> tuple[Tensor, Tensor]:
    """Losses and squared gradients of the losses with respect to the prompt's embedding, from the formulas.

    The margin is h = x . (W_a - W_b) - 1, as the reference's log-ratio is 1, and dl/dh = -beta sigmoid(-beta h). The
    gradient is that times W_a - W_b for a joint prompt; of its two copies W_a - E W and W_b - E W for separate ones.
    """
    losses, squares = [], []
    for s, a, b in PAIRS:
        x, w = model.tokens.weight[s], model.head.weight
        h = x @ (w[a] - w[b]) - 1
        slope = BETA / (1 + torch.exp(BETA * h))
        mean = torch.softmax(w @ x, 0) @ w
        parts = (w[a] - w[b],) if prompt == "joint" else (w[a] - mean, w[b] - mean)
        losses.append(torch.log1p(torch.exp(-BETA * h)))
        squares.append(slope**2 * sum(part @ part for part in parts))
    return torch.stack(losses), torch.stack(squares)


@pytest.mark.parametrize("name", ["wdpo_paper", "wdpo_released"])
def test_wdpo_by_hand(name: str) -> None:
    """Root of the mean over joint prompts (Algorithm 1), mean over separate ones (released): penalty and gradient."""
    model, batch = Bigrams(), bigram_batch()
    losses, squares = by_hand(model, "joint" if name == "wdpo_paper" else "per_sequence")
    penalty = RADIUS * (squares.mean().sqrt() if name == "wdpo_paper" else squares.mean())
    expected = torch.autograd.grad(losses.mean() + penalty, list(model.parameters()))
    step = objective_step(build_objective(preset(name)))
    plan = step.plan(model, [batch])
    assert plan.diagnostics["penalty"] == pytest.approx(float(penalty.detach()), rel=1e-12)
    found = torch.autograd.grad(step.loss(model, batch, plan, 0)[0], list(model.parameters()))
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-15)


def test_policy_weight_token_by_token() -> None:
    model = tiny_gpt2(torch.float64)
    pairs = examples(4)
    batch = PairCollator(pad=0)(pairs)
    found = policy_weight(model, Rows(batch["input_ids"], batch["attention_mask"], batch["completion_mask"]))
    for i, pair in enumerate(pairs):
        weight = 1.0
        for reply in (pair["chosen"], pair["rejected"]):
            ids = torch.tensor([pair["prompt"] + reply])
            p = model(ids).logits[0].softmax(-1).detach().numpy()
            at = range(len(pair["prompt"]) - 1, ids.shape[1] - 1)
            weight *= np.exp(np.mean([np.log(p[t, ids[0, t + 1]] / (p[t] ** 2).sum()) for t in at]))
        assert float(found[i]) == pytest.approx(weight, rel=1e-10)


def test_difference_step_has_the_precision_of_autocast() -> None:
    """Under bf16 autocast a step chosen for fp32 would drown in rounding."""
    model, batch = tiny_gpt2(), PairCollator(pad=0)(examples())
    step = objective_step(build_objective(preset("wdpo") | {"gradient": "forward"}))
    plain = step.plan(model, [batch]).moves[1][1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = step.plan(model, [batch]).moves[1][1]
    assert mixed / plain == pytest.approx(5e-4 / 1e-5, rel=0.2)
