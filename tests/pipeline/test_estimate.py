"""What a dry run says that a run would take: counted by hand for a small model."""

from __future__ import annotations

import pytest

from robustalign.pipeline.estimate import PEAK, UTILISATION, estimate, outlook
from robustalign.policies.load import asset_folder, load_model
from tests.conftest import compose_config


@pytest.fixture
def make(tmp_path, shared_cache):
    places = (f"paths.output={tmp_path / 'outputs'}", f"paths.cache={shared_cache}")
    sizes = (
        "dataset.train_prompts=100",
        "dataset.validation_prompts=10",
        "dataset.test_prompts=20",
        "dataset.samples=4",
    )
    rest = ("model.max_length=40", "trainer.max_steps=5", "trainer.batch_size=8", "trainer.micro_batch_size=8")
    return lambda *overrides: compose_config(*sizes, *rest, *places, *overrides)


def test_tokens_and_operations_by_hand(make) -> None:
    config = make("evaluation.replies=3", "evaluation.shrinkage=[0.5]")
    work = estimate(config)
    assert work is not None
    model = load_model(asset_folder("chitchat_tiny"), config.model)
    assert work.parameters == sum(parameter.numel() for parameter in model.parameters())
    expected = {
        "sft": 0,
        "candidates": 130 * 4 * 40,
        "reference": 130 * 4 * 40,
        "training": 5 * 8 * 2 * 40,
        "evaluation": 30 * 3 * 2 * 40,
    }
    assert work.tokens == expected
    forward = 2 * (2 * 130 * 4 * 40 + 30 * 3 * 2 * 40)
    assert work.operations == work.parameters * (6 * 5 * 8 * 2 * 40 + forward)
    assert work.bytes == 16 * work.parameters, "fp32 weights, gradients, and Adam's two moments"
    hours = work.operations / (PEAK * UTILISATION) / 3600
    assert f"{hours:,.2g} GPU hours at 40% of 312 TFLOP/s" in str(work)


def test_what_makes_it_dearer_or_cheaper(make) -> None:
    plain = estimate(make())
    moved, adapters = estimate(make("method=wdpo")), estimate(make("model.lora.r=8"))
    shards = estimate(make("trainer.parallel=fsdp", "trainer.nproc=2", "trainer.micro_batch_size=4"))
    assert plain and moved and adapters and shards
    training = 6 * plain.parameters * plain.tokens["training"]
    assert moved.operations - plain.operations == pytest.approx(0.75 * training)
    assert adapters.bytes == 4 * plain.parameters and shards.bytes == plain.bytes // 2


def test_a_model_that_is_not_here_has_no_estimate(make) -> None:
    config = make("model.path=somebody/no-such-model")
    assert estimate(config) is None
    assert outlook(make())["estimate"].startswith("chitchat_tiny: 1.26 M parameters")
