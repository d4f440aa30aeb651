"""The same batches through TRL's DPOTrainer and through our step: same losses, gradients and loss curve."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from robustalign.policies.logprobs import sequence_logps
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step, pair_terms, rows_of
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


def our_batch(theirs: dict) -> dict[str, torch.Tensor]:
    size = len(theirs["ref_chosen_logps"])
    return {
        "input_ids": theirs["input_ids"],
        "attention_mask": theirs["attention_mask"].bool(),
        "completion_mask": theirs["completion_mask"].bool(),
        "ref_logps": torch.cat([theirs["ref_chosen_logps"], theirs["ref_rejected_logps"]]),
        "row": torch.arange(size),
        "score_gap": torch.ones(size),
    }


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        ({"loss": "sigmoid"}, "sigmoid", {}),
        ({"loss": "unbiased", "flip_rate": 0.2}, "robust", {"label_smoothing": 0.2}),
        ({"loss": "ipo", "per_token": True}, "ipo", {}),
        ({"loss": "hinge"}, "hinge", {}),
        ({"loss": "apo_zero"}, "apo_zero", {}),
        ({"loss": "apo_down"}, "apo_down", {}),
        ({"loss": "wpo"}, "sigmoid", {"use_weighting": True}),
    ],
    ids=lambda value: value.get("loss") if isinstance(value, dict) else None,
)
def test_losses_and_parameter_gradients_equal_trls(tokenizer, tmp_path, method, kind, options) -> None:
    """Every loss that both have, on the same tokens."""
    policy, reference = (tiny_llama(vocabulary=len(tokenizer), seed=s) for s in (1, 2))
    trainer = trl_trainer(tokenizer, tmp_path, policy, reference, kind, **options)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    policy.zero_grad()
    theirs = trainer.compute_loss(policy, dict(batch))
    theirs.backward()
    their_gradient = torch.cat([p.grad.flatten().clone() for p in policy.parameters()])

    policy.zero_grad()
    ours_batch = our_batch(batch)
    step = objective_step(build_objective({"name": "same", "set": "nominal", "beta": 0.3} | method))
    ours, _ = step.loss(policy, ours_batch, step.plan(policy, [ours_batch]), 0)
    ours.backward()
    our_gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    logps = sequence_logps(policy, rows_of(ours_batch)).detach().requires_grad_()
    terms = pair_terms(ours_batch | {"policy_weight": torch.ones(4)}, logps)
    assert float(terms.margin.detach().abs().min()) > 1e-2, "policy and reference must differ to mean anything"
    (slope,) = torch.autograd.grad(step.objective.loss.losses(terms).mean(), logps)
    largest = logps.detach().abs() + ours_batch["ref_logps"].abs()  # the loss is made of differences of these
    rounding = 4 * torch.finfo(torch.float32).eps * float((slope.abs() * largest).sum())
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6, abs=rounding)
    assert float((our_gradient - their_gradient).norm() / their_gradient.norm()) < 1e-5


def test_loss_curve_of_twenty_steps_equals_trl(tokenizer, tmp_path) -> None:
    theirs, ours, reference = (tiny_llama(vocabulary=len(tokenizer), seed=s) for s in (1, 1, 2))
    trainer = trl_trainer(tokenizer, tmp_path, theirs, reference)
    batches = [trainer.data_collator([trainer.train_dataset[i] for i in rows]) for rows in ((0, 1), (2, 3), (1, 3))]
    step = objective_step(build_objective({"name": "dpo", "loss": "sigmoid", "set": "nominal", "beta": 0.3}))
    optimisers = [torch.optim.AdamW(model.parameters(), lr=3e-3) for model in (theirs, ours)]
    curves: list[list[float]] = [[], []]
    for i in range(20):
        batch = batches[i % 3]
        mine = our_batch(batch)
        losses = [trainer.compute_loss(theirs, dict(batch)), step.loss(ours, mine, step.plan(ours, [mine]), 0)[0]]
        for loss, optimiser, curve in zip(losses, optimisers, curves, strict=True):
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            curve.append(float(loss.detach()))
    assert curves[0][-1] < 0.5 * curves[0][2], "both must have learnt something"
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)
