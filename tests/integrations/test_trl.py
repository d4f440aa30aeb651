"""A robust DPOTrainer against TRL's own, and against our step on the same batches."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from robustalign.objectives import CVaR, GroupBall, KLBall, Nominal, OutputLayerBall, WassersteinBall
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step
from tests.conftest import tiny_llama

trl = pytest.importorskip("trl")

CENTRAL = {"gradient": "central", "step_ratio": 0.01}
WORDS = ("fine, and you?", "tea", "hello there!", "i read a lot of old ones", "no", "why do you ask me that?", "bye")


@pytest.fixture(scope="module")
def rows() -> Dataset:
    prompts = ["how are you?", "do you like tea or coffee?", "hi", "what is your favourite book?"] * 3
    chosen = [WORDS[i % 7] for i in range(12)]
    rejected = [WORDS[(3 * i + 1) % 7] + "." for i in range(12)]
    return Dataset.from_dict({"prompt": prompts, "chosen": chosen, "rejected": rejected})


def train(
    kind, rows, tokenizer, folder, micro_batch: int, steps: int = 3, loss_type: str = "sigmoid",
    learning_rate: float = 3e-3, **more,
):  # fmt: skip
    """Trained parameters, and the losses that were logged."""
    args = trl.DPOConfig(
        output_dir=str(folder), per_device_train_batch_size=micro_batch, gradient_accumulation_steps=4 // micro_batch,
        beta=0.3, loss_type=[loss_type], report_to=[], bf16=False, use_cpu=True, max_length=64, max_steps=steps,
        learning_rate=learning_rate, logging_steps=1, save_strategy="no", disable_tqdm=True, seed=5,
    )  # fmt: skip
    policy, reference = (tiny_llama(vocabulary=len(tokenizer), seed=s) for s in (1, 2))
    trainer = kind(model=policy, ref_model=reference, args=args, train_dataset=rows, processing_class=tokenizer, **more)
    trainer.train()
    parameters = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return parameters, [line["loss"] for line in trainer.state.log_history if "loss" in line], trainer


def robust():
    from robustalign.integrations.trl import RobustDPOTrainer

    return RobustDPOTrainer


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "sppo_hard", "discopop"])
def test_nominal_is_trls_own_training(rows, tokenizer, tmp_path, loss_type) -> None:
    theirs, their_losses, _ = train(trl.DPOTrainer, rows, tokenizer, tmp_path, 2, 20, loss_type)
    ours, our_losses, _ = train(robust(), rows, tokenizer, tmp_path, 2, 20, loss_type, ambiguity_set=Nominal())
    assert our_losses == pytest.approx(their_losses, rel=1e-5)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize("ball", [KLBall(radius=0.2), CVaR(alpha=0.5), WassersteinBall(radius=0.1)])
def test_the_cut_into_micro_batches_does_not_matter(rows, tokenizer, tmp_path, ball) -> None:
    whole, *_ = train(robust(), rows, tokenizer, tmp_path, 4, ambiguity_set=ball)
    parts, *_ = train(robust(), rows, tokenizer, tmp_path, 1, ambiguity_set=ball)
    nominal, *_ = train(trl.DPOTrainer, rows, tokenizer, tmp_path, 4)
    assert float((whole - parts).norm()) < 1e-3 * float((whole - nominal).norm())


@pytest.mark.parametrize(
    ("ball", "method"),
    [
        (KLBall(radius=0.2), {"set": "kl", "radius": 0.2}),
        (WassersteinBall(radius=0.1), {"set": "wasserstein", "radius": 0.1}),
        (WassersteinBall(radius=0.1, **CENTRAL), {"set": "wasserstein", "radius": 0.1} | CENTRAL),
    ],
    ids=["kl", "moved", "central"],
)
def test_gradients_are_those_of_our_step(rows, tokenizer, tmp_path, ball, method) -> None:
    *_, trainer = train(robust(), rows, tokenizer, tmp_path, 4, steps=1, ambiguity_set=ball)
    model = trainer.model
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    batches, _ = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    model.zero_grad()
    trainer.compute_loss(model, batches[0]).backward()
    theirs = torch.cat([p.grad.flatten().clone() for p in model.parameters()])
    ours_batch = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"].bool(),
        "completion_mask": batch["completion_mask"].bool(),
        "ref_logps": torch.cat([batches[0]["ref_chosen_logps"], batches[0]["ref_rejected_logps"]]),
        "row": torch.arange(4),
        "score_gap": torch.ones(4),
    }
    step = objective_step(build_objective({"name": "same", "loss": "sigmoid", "beta": 0.3} | method))
    model.zero_grad()
    step.loss(model, ours_batch, step.plan(model, [ours_batch]), 0)[0].backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float((ours - theirs).norm() / ours.norm()) < 1e-4


@pytest.mark.parametrize(("noise", "tied"), [(1e-6, True), (1e-2, False)])
def test_at_the_reference_rounding_is_no_reason_to_weigh(rows, tokenizer, tmp_path, noise, tied) -> None:
    """All losses are ln 2 there but for rounding; a set as sharp as that would weigh one pair alone."""
    ball = KLBall(temperature=1e-8)
    *_, trainer = train(robust(), rows, tokenizer, tmp_path, 4, steps=1, ambiguity_set=ball, learning_rate=0.0)
    policy = trainer.model.train()
    trainer.ref_model = policy
    batch = trainer._with_reference(trainer.data_collator([trainer.train_dataset[i] for i in range(4)]))
    batch["ref_chosen_logps"] = batch["ref_chosen_logps"] + noise * torch.tensor([0.0, 1.0, -1.0, 0.5])
    _, losses, rounding = trainer._losses_and_rounding(policy, batch)
    assert losses.std() > 0
    (excess,) = trainer._excess([losses], [rounding])
    assert (float(excess.abs().max()) < 1e-7) == tied
    (alone,) = trainer._excess([losses], [torch.zeros_like(rounding)])
    assert float(alone.abs().max()) == pytest.approx(0.75, abs=1e-3), "without it, one pair has all the weight"


def test_what_cannot_be_is_refused(rows, tokenizer, tmp_path) -> None:
    for ball in (OutputLayerBall(radius=0.1), WassersteinBall(radius=0.1, gradient="exact"), GroupBall(step_size=0.1)):
        with pytest.raises(ValueError, match="ambiguity_set: "):
            train(robust(), rows, tokenizer, tmp_path, 4, ambiguity_set=ball)
    with pytest.raises(ValueError, match="loss_type: aot"):
        train(robust(), rows, tokenizer, tmp_path, 4, loss_type="aot", ambiguity_set=KLBall(radius=0.1))


def test_what_a_set_learns_is_in_the_checkpoint(rows, tokenizer, tmp_path) -> None:
    from robustalign.integrations.trl import STATE

    ball = KLBall(radius=0.2, streaming=True)
    *_, trainer = train(robust(), rows, tokenizer, tmp_path, 4, ambiguity_set=ball)
    trainer._save_checkpoint(trainer.model, None)
    again = KLBall(radius=0.2, streaming=True)
    trainer.ambiguity_set = again
    checkpoint = tmp_path / f"checkpoint-{trainer.state.global_step}"
    assert (checkpoint / STATE).is_file()
    trainer._load_from_checkpoint(str(checkpoint))
    assert all(torch.equal(value, ball.state_dict()[name]) for name, value in again.state_dict().items())
