"""A training that has gone wrong stops before its optimiser uses what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from transformers import MixtralConfig, MixtralForCausalLM

from robustalign.config import TrainerConfig
from robustalign.data.pairs import PairCollator
from robustalign.errors import ConfigError
from robustalign.policies.load import switch_off_noise
from robustalign.policies.logprobs import score_completions, sequence_logps
from robustalign.training import checkpoints, watch
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step, rows_of
from robustalign.training.trainer import PairTrainer
from tests.conftest import tiny_llama
from tests.training.test_step import METHODS, examples


class Examples(Dataset):
    """Pairs whose reference is the given policy."""

    def __init__(self, policy, count: int = 16) -> None:
        sides = [(row["prompt"], row[side]) for row in examples(count) for side in ("chosen", "rejected")]
        logps = score_completions(policy, [p for p, _ in sides], [c for _, c in sides], pad=0, batch_size=64)
        pairs = logps.view(count, 2).tolist()
        self.rows = [row | {"reference": tuple(pair)} for row, pair in zip(examples(count), pairs, strict=True)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


def trainer(
    policy, tmp_path: Path, rows=None, objective=METHODS["dpo"], **changes
) -> tuple[PairTrainer, list[dict[str, float]]]:
    logged: list[dict[str, float]] = []
    settings = {
        "batch_size": 4,
        "micro_batch_size": 2,
        "max_steps": 4,
        "warmup_steps": 0,
        "device": "cpu",
        "threads": 1,
    }
    built = PairTrainer(
        policy,
        rows or Examples(policy),
        build_objective(objective),
        TrainerConfig(**(settings | changes)),
        pad=0,
        seed=0,
        output=tmp_path,
        log=lambda step, values: logged.append(values),
    )
    return built, logged


class Poisoned(torch.nn.Module):
    """Makes one forward's logits NaN, as a bad batch does."""

    def __init__(self, head: torch.nn.Linear, when: int) -> None:
        super().__init__()
        self.head, self.when, self.calls = head, when, 0

    @property
    def weight(self):
        return self.head.weight

    def forward(self, hidden):
        self.calls += 1
        return self.head(hidden) * (float("nan") if self.calls == self.when else 1.0)


def test_a_policy_that_breaks_stops_at_that_step(tmp_path: Path) -> None:
    policy = tiny_llama()
    broken, logged = trainer(policy, tmp_path, learning_rate=1e38, max_grad_norm=1e30)
    with pytest.raises(ConfigError, match=r"at step 2 the loss of 4 of 4 pairs .* parameters .*learning_rate.*1e\+38"):
        broken.train()
    assert len(logged) == 1


def test_the_last_update_counts_too(tmp_path: Path) -> None:
    broken, _ = trainer(tiny_llama(), tmp_path, learning_rate=1e38, max_grad_norm=1e30, max_steps=1)
    with pytest.raises(ConfigError, match="at step 1 the policy is not finite"):
        broken.train()


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_a_bad_batch_stops_or_is_left_out(tmp_path: Path, on_nonfinite: str) -> None:
    policy = tiny_llama(tie_word_embeddings=False)
    rows = Examples(policy)
    policy.lm_head = Poisoned(policy.lm_head, when=3)  # the first micro-batch of the second step
    poisoned, logged = trainer(policy, tmp_path, rows, on_nonfinite=on_nonfinite, learning_rate=1e-3)
    if on_nonfinite == "stop":
        with pytest.raises(ConfigError, match=r"at step 2 the loss of 2 of 4 pairs .*on_nonfinite=skip"):
            poisoned.train()
        return
    before: dict[int, torch.Tensor] = {}
    poisoned.after_step = lambda step: before.update({step: policy.model.embed_tokens.weight.detach().clone()})
    poisoned.train()
    assert [values["train/skipped"] for values in logged] == [0, 1, 1, 1]
    assert not watch.broken_parameters(policy)
    assert torch.equal(before[1], before[2]) and not torch.equal(before[2], before[3])
    assert [bool(torch.isnan(torch.tensor(values["train/rewards/accuracies"]))) for values in logged] == [0, 1, 0, 0]


def mixture(**changes) -> MixtralForCausalLM:
    torch.manual_seed(0)
    size = {
        "vocab_size": 97,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "initializer_range": 0.4,
        "sliding_window": None,
    }
    return MixtralForCausalLM(MixtralConfig(**(size | changes)))


def test_router_noise_is_off(tmp_path: Path) -> None:
    policy = mixture(router_jitter_noise=0.3, attention_dropout=0.1).eval()
    rows = Examples(policy)
    switch_off_noise(policy)
    quiet, logged = trainer(policy, tmp_path, rows, max_steps=1)
    quiet.train()
    assert logged[0]["train/loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_bf16_starts_at_its_reference_and_its_noise_is_no_weight(tmp_path: Path) -> None:
    """The reference is fp32 here, so that margins at the start are bf16's noise alone."""
    values = {}
    for method in ("dpo", "kldpo"):
        policy = tiny_llama()
        rows = Examples(policy)
        started, logged = trainer(
            policy, tmp_path, rows, max_steps=1, learning_rate=1e-3, bf16=True, objective=METHODS[method]
        )
        started.train()
        assert logged[0]["train/rewards/margins"] != 0
        values[method] = logged[0]["train/loss"], logged[0]["robust/ess"], policy.state_dict()
    assert values["kldpo"][1] == pytest.approx(4), "equal weights"
    assert all(torch.equal(values["dpo"][2][name], value) for name, value in values["kldpo"][2].items())


def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    ends = []
    for stop in (None, 2):
        policy = tiny_llama()
        rows, folder = Examples(policy), tmp_path / f"{stop}"
        if stop is not None:
            first, _ = trainer(policy, folder, rows, learning_rate=1e-3)
            first.after_step = (2).__eq__
            first.train()
            assert first.step == stop
            policy = tiny_llama()
        built, logged = trainer(policy, folder, rows, learning_rate=1e-3)
        built.train(checkpoints.complete(folder)[-1] if stop is not None else None)
        assert len(logged) == 4 - (stop or 0)
        ends.append([parameter.detach() for parameter in policy.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_decay_is_for_matrices(tmp_path: Path) -> None:
    built, _ = trainer(tiny_llama(), tmp_path, weight_decay=0.1)
    decay = {id(p): group["weight_decay"] for group in built.optimizer.param_groups for p in group["params"]}
    names = {name: decay[id(parameter)] for name, parameter in built.policy.named_parameters()}
    assert {value for name, value in names.items() if "norm" in name} == {0.0}
    assert {value for name, value in names.items() if "norm" not in name} == {0.1}


@pytest.mark.parametrize(("fault", "reason"), [("noise", "random in training"), ("cache", "not those of this policy")])
def test_a_policy_that_is_not_its_reference_is_refused_with_the_reason(tmp_path: Path, fault: str, reason: str) -> None:
    policy = mixture(router_jitter_noise=0.3 if fault == "noise" else 0.0).eval()
    rows = Examples(policy if fault == "noise" else mixture(initializer_range=0.5).eval())
    with pytest.raises(ConfigError, match=rf"before the first update .* nats: .*{reason}"):
        trainer(policy, tmp_path, rows)[0].train()


def test_accuracy_of_ties_is_a_half(tmp_path: Path) -> None:
    """Margins that are exactly 0 in training metrics."""
    policy = tiny_llama()
    built, _ = trainer(policy, tmp_path)
    batch = PairCollator(pad=0)(examples(4))
    with torch.no_grad():
        logps = sequence_logps(policy, rows_of(batch))
    batch["ref_logps"] = logps + torch.tensor([0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0])  # margins 0, 0, 1, -1
    step = objective_step(build_objective(METHODS["dpo"]))
    plan = step.plan(policy, [batch])
    columns = step.loss(policy, batch, plan, 0)[1]
    assert built._metrics(columns, plan, tokens=1, seconds=1.0)["train/rewards/accuracies"] == 0.5
    columns["margin"] = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert built._metrics(columns, plan, tokens=1, seconds=1.0)["train/rewards/accuracies"] == 0.875


def test_one_pair_is_enough_to_stop_and_frozen_parameters_do_not_count() -> None:
    columns = {"loss": torch.tensor([0.3, float("inf"), 0.5])}
    assert watch.not_finite(columns, 1.0) == "the loss of 1 of 3 pairs is not finite"
    assert watch.not_finite({"loss": torch.ones(3)}, torch.tensor(float("nan"))) == "the gradient's norm is nan"
    assert watch.not_finite({"loss": torch.ones(3)}, 1.0) is None
    layer = torch.nn.Linear(2, 1)
    layer.weight.data.fill_(float("nan"))
    assert watch.broken_parameters(layer) == ["weight"]
    layer.weight.requires_grad_(False)
    assert watch.broken_parameters(layer) == []
