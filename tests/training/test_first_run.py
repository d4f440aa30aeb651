"""A first run is training as ever: the same losses, whatever its micro-batches; pairs without weight teach nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustalign.data.pairs import PairCollator, PairColumns, TrainingRows
from robustalign.pipeline.stages import Stages
from robustalign.policies.logprobs import sequence_logps
from robustalign.training.first_run import first_run
from robustalign.training.objective import build_objective
from robustalign.training.steps import pair_terms, rows_of
from tests.pipeline.test_group_stage import FEW, prepared

DPO = {"name": "dpo", "loss": "sigmoid", "set": "nominal", "beta": 0.1}


@pytest.fixture
def scene(small):
    """The stages of a small config, its pairs, and rows of three steps with any weights."""
    config = small(*FEW)
    stages, pairs = Stages(config), prepared(config).rows.pairs
    candidates = stages.candidates("train")

    def rows(weight: np.ndarray | None = None) -> TrainingRows:
        columns = PairColumns({} if weight is None else {"weight": weight})
        return TrainingRows(pairs, candidates, columns, steps=3, batch_size=8, seed=0)

    return config, stages, pairs, rows


def trained(
    scene, micro_batch: int, weight: np.ndarray | None = None, dtype: torch.dtype = torch.float32
) -> tuple[np.ndarray, torch.nn.Module]:
    config, stages, _, rows = scene
    trainer = replace(config.trainer, micro_batch_size=micro_batch)
    policy = stages.new_model().to(dtype)
    pad = stages.tokenizer.pad_token_id
    return first_run(policy, rows(weight), build_objective(DPO), trainer, steps=3, pad=pad), policy


def test_losses_are_those_of_a_plain_loop(scene) -> None:
    config, stages, _, rows = scene
    losses, _ = trained(scene, 8)
    policy, c = stages.new_model().train(), config.trainer
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(c.adam_beta1, c.adam_beta2), weight_decay=c.weight_decay)
    expected = []
    for step, rate in enumerate((0.5, 1.0, 0.55)):  # one step of warm-up, then down to a tenth at the fourth
        batch = PairCollator(stages.tokenizer.pad_token_id)([rows()[i] for i in range(8 * step, 8 * step + 8)])
        margin = pair_terms(batch, sequence_logps(policy, rows_of(batch))).margin
        loss = torch.nn.functional.softplus(-0.1 * margin).mean()
        expected.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), c.max_grad_norm)
        optimizer.param_groups[0]["lr"] = c.learning_rate * rate
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses == pytest.approx(expected, abs=1e-5)


def test_micro_batches_change_nothing_for_weighted_means(scene) -> None:
    """In fp64: Adam divides by the gradient's size, and where that is rounding the parameters tell the cut."""
    weight = np.random.default_rng(0).random(len(scene[2]))
    (whole, one), (cut, other) = (trained(scene, size, weight, torch.float64) for size in (8, 2))
    assert cut == pytest.approx(whole, abs=1e-5)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)


def test_batches_without_weight_are_skipped(scene) -> None:
    losses, policy = trained(scene, 4, np.zeros(len(scene[2])))
    assert np.isnan(losses).all()
    for mine, theirs in zip(policy.parameters(), scene[1].new_model().parameters(), strict=True):
        assert torch.equal(mine, theirs)
