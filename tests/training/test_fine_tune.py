"""Fine-tuning on texts: its loss is the plain one of each row alone, and it learns."""

from __future__ import annotations

import math

import pytest
import torch

from robustalign.config import SftConfig
from robustalign.errors import ConfigError
from robustalign.training.fine_tune import fine_tune, next_token_loss
from tests.conftest import tiny_gpt2, tiny_llama

ROWS = [[1, 5, 9, 7, 2], [1, 40, 2], [1, 8, 8, 8, 8, 8, 30, 2], [1, 77, 12, 5]]


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_the_loss_is_that_of_each_row_alone(build, batch_size: int) -> None:
    model = build(torch.float64)
    total = 0.0
    for row in ROWS:
        ids = torch.tensor([row])
        logps = torch.log_softmax(model(input_ids=ids).logits, -1)[0, :-1]
        total -= float(logps.gather(1, ids[0, 1:, None]).sum().detach())
    expected = total / sum(len(row) - 1 for row in ROWS)
    assert next_token_loss(model, ROWS, pad=0, batch_size=batch_size) == pytest.approx(expected, rel=1e-6), (
        "transformers computes its loss in fp32"
    )


def test_a_step_is_adams_first_at_the_warmed_rate() -> None:
    """From nothing Adam moves every weight by rate x sign(gradient): half the peak at the first of one warm-up step."""
    model = tiny_llama(torch.float64)
    model.requires_grad_(True)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    fine_tune(model, ROWS, SftConfig(epochs=1, batch_size=4, learning_rate=1e-3, warmup_steps=1), pad=0)
    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert float(moved.max()) == pytest.approx(5e-4, rel=1e-3)


def test_it_learns_the_texts_and_repeats_itself() -> None:
    config = SftConfig(epochs=30, batch_size=2, learning_rate=1e-2, warmup_steps=2)
    models = [tiny_llama() for _ in range(2)]
    losses = [fine_tune(model, ROWS, config, pad=0, seed=3) for model in models]
    assert losses[0] == losses[1] and len(losses[0]) == 60
    assert next_token_loss(models[0], ROWS, pad=0) < 0.3 * losses[0][0]
    assert not models[0].training


def test_a_loss_that_is_not_finite_names_its_key() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(ConfigError, match=r"model\.sft\.learning_rate: the loss is nan at step 1; lower it"):
        fine_tune(model, ROWS, SftConfig(epochs=1), pad=0)
