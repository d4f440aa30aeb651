"""The paper's first experiment at its smallest: texts, a fine-tuned policy, prompts of four tokens, two replies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from robustalign.data.candidates import texts_of
from robustalign.errors import ConfigError
from robustalign.pipeline.estimate import outlook
from robustalign.pipeline.stages import Stages
from tests.conftest import compose_config
from tests.pipeline.test_run import metrics, run, targets

SMOKE = ("experiment=emotion_alignment/smoke", "dataset.train_prompts=24", "evaluation.shrinkage=[]")


@pytest.fixture
def smoke(tmp_path: Path, shared_cache: Path):
    places = (f"paths.output={tmp_path / 'outputs'}", f"paths.cache={shared_cache}")
    return lambda *overrides: compose_config(*SMOKE, *places, *overrides)


@pytest.mark.parametrize("combine", ["convex", "geometric"])
def test_it_runs_from_texts_to_targets(smoke, combine: str) -> None:
    config = smoke(f"shift.combine={combine}", "evaluation.temperature=0.1")
    folder = run(config, combine)
    logged = metrics(folder)
    assert logged[0, "sft/after"] < logged[0, "sft/before"], "fine-tuning lowers the held-out loss"
    assert logged[0, "sft/steps"] >= 1 and logged[0, "sft/texts"] > 1000
    names = {f"anger_{alpha}" for alpha in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)}
    assert names <= set(targets(folder).query("metric == 'reward' and split == 'test'")["target"])
    assert "sft" not in outlook(config)["to_build"]


def test_prompts_are_the_first_tokens_of_texts_without_a_template(smoke) -> None:
    config = smoke()
    stages = Stages(config)
    assert stages.tokenizer.chat_template is None
    table = stages.candidates("train").table
    texts, bos = texts_of(config, "train", None), stages.tokenizer.bos_token_id
    assert len(table) == 24 and len(set(map(tuple, table["prompt_ids"][:]))) == 24
    plain = {tuple(stages.tokenizer(text, add_special_tokens=False)["input_ids"][:4]) for text in texts}
    for ids in table["prompt_ids"]:
        assert ids[0] == bos and tuple(ids[1:]) in plain
    assert {len(row) for row in table["replies"]} == {2}


def test_the_result_depends_on_the_options_and_is_the_reference(smoke) -> None:
    stages = Stages(smoke())
    other = Stages(smoke("model.sft.learning_rate=1e-3"))
    assert stages.model_key != other.model_key and stages.model_path != other.model_path
    curves = [json.loads((Path(s.model_path) / "sft.json").read_text()) for s in (stages, other)]
    assert curves[0]["before"] == curves[1]["before"] != curves[0]["after"]
    assert Stages(smoke("model.sft.epochs=0")).model_path == stages.base_path


def test_held_out_scores_are_standardised_by_the_training_split(smoke) -> None:
    stages = Stages(smoke())
    train, test = (stages.candidates(split).scores["anger"] for split in ("train", "test"))
    fear = {split: stages.candidates(split).scores["fear"] for split in ("train", "test")}
    (component,) = [c for c in stages.shift.components if c.name == "anger_1.0"]
    expected = (test - train.mean()) / train.std()
    np.testing.assert_allclose(component.utility({"anger": test, "fear": fear["test"]}), expected, atol=1e-12)


def test_cold_replies_are_the_likeliest(smoke) -> None:
    """At a temperature near 0 all replies to a prompt are one."""
    config = smoke("evaluation.temperature=1e-4", "evaluation.replies=3", "trainer.max_steps=1")
    from robustalign.pipeline.held_out import HeldOut

    held_out = HeldOut(Stages(config), "test", 0.1)
    held_out.reference_cells()
    assert np.mean([len(set(texts)) == 1 for texts in held_out.replies]) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset.prompt_tokens=0",), r"dataset\.prompt_tokens: 0"),
        (("model.sft.epochs=-1",), r"model\.sft\.epochs: -1"),
        (("evaluation.temperature=0",), r"evaluation\.temperature: 0"),
        (("shift.nominal=1.5",), r"shift\.nominal: .* outside"),
        (("shift.objectives=[anger,dread]",), r"shift\.objectives: .*dread"),
    ],
)
def test_what_cannot_be_is_one_line(smoke, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(smoke(*overrides), "never")
