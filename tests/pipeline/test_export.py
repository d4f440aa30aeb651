"""A trained policy taken away: opened by others, merged, chosen, and gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from robustalign.errors import ConfigError
from robustalign.pipeline.checks import check_config
from robustalign.pipeline.export import export
from robustalign.pipeline.stages import Stages
from robustalign.policies.load import load_model
from robustalign.policies.logprobs import score_completions
from tests.pipeline.test_run import run

FAST = ("evaluation.generate=never", "trainer.save_model=true")
LORA = ("model.lora.r=2", "trainer.learning_rate=1e-2")


def logps(model, prompts=((1, 5, 9, 2), (1, 7, 2)), replies=((11, 12, 2), (30, 31, 32, 2))) -> torch.Tensor:
    return score_completions(model.eval(), prompts, replies, pad=0, batch_size=8)


def test_a_saved_policy_is_whole(small) -> None:
    config = small(*FAST, "label=mine")
    folder = run(config, "runs/whole")
    target = export("whole", Path(config.paths.output))
    policy = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    trained = load_model(folder.model, config.model)
    assert torch.equal(logps(policy), logps(trained))
    assert not torch.allclose(logps(policy), logps(Stages(config).reference), atol=1e-3), "training did something"
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer.chat_template == Stages(config).tokenizer.chat_template
    assert policy.generation_config.eos_token_id == 2
    card = (target / "README.md").read_text()
    for part in (
        "trained by mine",
        "| beta | 0.1 |",
        "| nominal |",
        "| worst |",
        "training_pairs",
        "robustalign train",
    ):
        assert part in card
    assert card.startswith("---\nlibrary_name: transformers\n")
    with pytest.raises(ConfigError, match=r"--to: .* exists"):
        export("whole", Path(config.paths.output))


KINDS = {
    "lora": (),
    "rslora": ("model.lora.use_rslora=true",),
    "dora": ("model.lora.use_dora=true",),
    "saved": ("model.lora.modules_to_save=[norm]",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_adapters_give_the_same_policy(small, tmp_path, kind) -> None:
    config = small(*FAST, *LORA, *KINDS[kind])
    run(config, "runs/lora")
    apart = export("lora", Path(config.paths.output), tmp_path / "apart")
    together = export("lora", Path(config.paths.output), tmp_path / "together", merged=True)
    assert (apart / "adapter_config.json").is_file() and not (together / "adapter_config.json").exists()
    split = AutoPeftModelForCausalLM.from_pretrained(apart, dtype=torch.float64)  # what is left is the merge's rounding
    merged = AutoModelForCausalLM.from_pretrained(together, dtype=torch.float64)
    reference = Stages(config).reference
    assert float((logps(split) - logps(merged)).abs().max()) < 1e-5
    assert float((logps(split) - logps(reference)).abs().max()) > 1e-2
    assert AutoTokenizer.from_pretrained(together).eos_token_id == 2 and (together / "README.md").is_file()


@pytest.mark.parametrize("adapters", [(), LORA], ids=["full", "lora"])
def test_a_run_goes_on_from_another(small, adapters) -> None:
    first = small(*FAST, *adapters)
    folder = run(first, "runs/first")
    second = small("model.path=run:first", "evaluation.generate=never", "trainer.max_steps=2")
    check_config(second)
    reference = Stages(second).reference
    trained = AutoModelForCausalLM.from_pretrained(folder.model, dtype=torch.float32)
    assert float((logps(reference) - logps(trained)).abs().max()) < 1e-5
    again = run(second, "runs/second")
    assert (again.results / "targets.csv").is_file()


def test_adapters_in_a_folder_are_a_model_like_any_other(small, tmp_path) -> None:
    config = small(*FAST, *LORA)
    run(config, "runs/first")
    adapters = export("first", Path(config.paths.output), tmp_path / "adapters")
    again = small(f"model.path={adapters}")
    check_config(again)
    trained = AutoModelForCausalLM.from_pretrained(adapters, dtype=torch.float32)
    assert float((logps(Stages(again).reference) - logps(trained)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.lora.use_dora=true",), r"model\.lora\.use_dora: .*set model\.lora\.r"),
        (("model.quantization=nf4",), r"model\.quantization: .*set model\.lora\.r"),
        (("model.quantization=int3", "model.lora.r=2"), r"model\.quantization: unknown value"),
        (("model.quantization=nf4", "model.lora.r=2"), r"model\.quantization: needs a CUDA device"),
    ],
)
def test_adapter_settings_that_cannot_be_are_refused(small, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(small(*overrides))


def test_a_run_without_a_policy_is_refused(small) -> None:
    run(small("evaluation.generate=never", "trainer.max_steps=1"), "runs/bare")
    with pytest.raises(ConfigError, match=r"model\.path: run 'bare' kept no policy; .*save_model=true"):
        check_config(small("model.path=run:bare"))
    with pytest.raises(ConfigError, match=r"model\.path: no run begins with 'nothing'"):
        check_config(small("model.path=run:nothing"))
