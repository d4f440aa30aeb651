"""One batch through TRL's DPOTrainer and through our step: same tokens, same loss, same gradients."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from robustalign.training.objective import build_objective
from robustalign.training.step import ObjectiveStep
from tests.conftest import tiny_llama

trl = pytest.importorskip("trl")


def trl_trainer(tokenizer, tmp_path, model, reference, loss_type: str = "sigmoid", **options):
    rows = {
        "prompt": ["how are you?", "do you like tea or coffee?", "hi", "what is your favourite book?"],
        "chosen": ["fine, and you?", "tea", "hello there!", "i read a lot of old ones"],
        "rejected": ["no", "why do you ask me that?", "bye", "none"],
    }
    args = trl.DPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, beta=0.3, loss_type=[loss_type], report_to=[],
        gradient_checkpointing=False, bf16=False, use_cpu=True, max_length=64, precompute_ref_log_probs=True,
        disable_dropout=True, **options,
    )  # fmt: skip
    return trl.DPOTrainer(
        model=model, ref_model=reference, args=args, train_dataset=Dataset.from_dict(rows), processing_class=tokenizer
    )


def test_dpo_loss_and_gradients_equal_trl(tokenizer, tmp_path) -> None:
    policy, reference = (tiny_llama(vocabulary=len(tokenizer), seed=s) for s in (1, 2))
    trainer = trl_trainer(tokenizer, tmp_path, policy, reference)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    policy.zero_grad()
    theirs = trainer.compute_loss(policy, dict(batch))
    theirs.backward()
    their_gradient = torch.cat([p.grad.flatten().clone() for p in policy.parameters()])

    policy.zero_grad()
    ours_batch = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"].bool(),
        "completion_mask": batch["completion_mask"].bool(),
        "ref_logps": torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]),
        "row": torch.arange(4),
        "score_gap": torch.ones(4),
    }
    step = ObjectiveStep(build_objective({"name": "dpo", "loss": "sigmoid", "set": "nominal", "beta": 0.3}))
    ours, _ = step.loss(policy, ours_batch, step.plan(policy, [ours_batch]), 0)
    ours.backward()
    our_gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert abs(float(theirs.detach()) - 0.6931472) > 1e-2, "policy and reference must differ for this to mean anything"
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    assert float((our_gradient - their_gradient).norm() / their_gradient.norm()) < 1e-5
