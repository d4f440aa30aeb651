"""Policies that are there already, measured without training: the same numbers as the run's that trained them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robustalign.errors import ConfigError
from robustalign.pipeline.checks import check_config
from robustalign.pipeline.export import export
from robustalign.pipeline.stages import Stages
from robustalign.policies.load import asset_folder, load_model, load_tokenizer
from tests.pipeline.test_run import FAST, run, targets


def same(audit: pd.DataFrame, trained: pd.DataFrame) -> None:
    """But for the step, which an audit has not."""
    keys = ["control", "split", "target", "metric"]
    both = [table.sort_values(keys).reset_index(drop=True).drop(columns="step") for table in (audit, trained)]
    pd.testing.assert_frame_equal(*both, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lora", ["0", "2"])
def test_an_audit_of_what_a_run_saved_is_the_runs_own_table(small, lora: str) -> None:
    words = (f"model.lora.r={lora}", "evaluation.shrinkage=[0.5]", "trainer.learning_rate=1e-2")
    trained = run(small(*words, "trainer.save_model=true"), "trained")
    audit = run(small(*words[1:], "method=audit", f"method.policy={trained.model}", "trainer.max_steps=1"), "audit")
    same(targets(audit), targets(trained))
    loss = targets(trained).query("metric == 'loss' and target == 'nominal'").groupby("control")["value"].mean()
    assert abs(loss["policy"] - loss["reference"]) > 1e-3, "the policy has moved"
    certificates = [pd.read_csv(folder.results / "certificates.csv") for folder in (audit, trained)]
    pd.testing.assert_frame_equal(*certificates, rtol=1e-4, atol=1e-5)
    assert (audit.results / "shift.csv").is_file() and not audit.model.exists()
    assert "train/loss" not in audit.journal.read_text() and '"cost/seconds/evaluate"' in audit.journal.read_text()


def test_an_audit_of_an_exported_merged_policy_is_the_runs_own_table(small, tmp_path: Path) -> None:
    words = ("evaluation.shrinkage=[0.5]", "trainer.learning_rate=1e-2")
    config = small("model.lora.r=2", *words, "trainer.save_model=true")
    trained = run(config, "runs/lora")
    merged = export("lora", Path(config.paths.output), tmp_path / "merged", merged=True)
    assert not list(merged.glob("adapter*")) and (merged / "model.safetensors").is_file()
    audit = run(small(*words, "method=audit", f"method.policy={merged}", "trainer.max_steps=1"), "audit")
    same(targets(audit), targets(trained))


def test_a_policy_of_another_tool_is_measured_as_a_plain_loop_does(small, tmp_path: Path) -> None:
    """A few steps of TRL's DPO on other pairs; the margins by one forward pass for each row."""
    import torch
    from datasets import Dataset

    trl = pytest.importorskip("trl")
    config = small(*FAST)
    model = load_model(asset_folder("chitchat_tiny"), config.model)
    tokenizer = load_tokenizer(asset_folder("chitchat_tiny"))
    rows = {"prompt": ["do you like tea? "] * 8, "chosen": ["yes, a lot."] * 8, "rejected": ["no idea"] * 8}
    options = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=3, learning_rate=1e-3, per_device_train_batch_size=4,
        report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.DPOTrainer(model, args=options, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer)
    trainer.train()
    policy = tmp_path / "policy"
    trainer.save_model(str(policy))
    config = small(*FAST, "method=audit", f"method.policy={policy}")
    audit = run(config, "audit")
    stages = Stages(config)
    held_out = stages.candidates("test")
    trained = load_model(policy, config.model)

    def logp(prompt: list[int], reply: list[int]) -> float:
        with torch.no_grad():
            logits = trained(torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
        return float(sum(logits[len(prompt) + i - 1, token] for i, token in enumerate(reply)))

    shift = stages.shift
    found = targets(audit).query("control == 'policy' and split == 'test'").set_index(["metric", "target"])["value"]
    losses = []
    for component in range(len(shift.components)):
        pairs = shift.pairs(held_out, component, config.dataset.pairs, per_prompt=1, seed=config.dataset.seed)
        told = []
        for p, c, r in zip(pairs.prompt, pairs.chosen, pairs.rejected, strict=True):
            ratio = [
                logp(held_out.prompt_ids[p], held_out.reply_ids[p][reply]) - held_out.reference_logps[p, reply]
                for reply in (c, r)
            ]
            told.append(np.logaddexp(0, -0.1 * (ratio[0] - ratio[1])))
        losses.append(np.mean(told))
    assert found["loss", "nominal"] == pytest.approx(shift.shares() @ losses, rel=1e-4)
    assert abs(found["loss", "nominal"] - np.log(2)) > 1e-3


@pytest.mark.parametrize(
    ("policy", "message"),
    [("/nowhere", r"method\.policy: there is no folder"), ("run:abc", r"method\.policy: no run begins with 'abc'")],
)
def test_a_policy_that_is_not_there_is_refused(small, policy: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(small("method=audit", f"method.policy={policy}"))
