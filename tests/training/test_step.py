"""The pooled step as mathematics: splits, ranks, difference quotients, DPO limits, TRL."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from robustalign.data.pairs import PairCollator
from robustalign.objectives import InputStatistics
from robustalign.policies.logprobs import sequence_logps
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step, pair_terms, rows_of
from tests.conftest import tiny_gpt2, tiny_llama

WDPO = {"name": "wdpo", "loss": "sigmoid", "set": "wasserstein", "beta": 0.3, "radius": 0.05}
KLDPO = {"name": "kldpo", "loss": "sigmoid", "set": "kl", "beta": 0.3, "temperature": 0.2}
METHODS = {
    "dpo": {"name": "dpo", "loss": "sigmoid", "set": "nominal", "beta": 0.3},
    "kldpo": KLDPO,
    "kldpo radius": {"name": "kldpo", "loss": "sigmoid", "set": "kl", "beta": 0.3, "radius": 0.3},
    "drdpo": KLDPO | {"name": "drdpo", "direction": "optimistic"},
    "wdpo": WDPO,
    "wdpo per sequence": WDPO | {"prompt": "per_sequence"},
    "wdpo squared": WDPO | {"form": "squared", "radius_unit": "absolute", "radius": 0.02},
    "wdpo exact": WDPO | {"gradient": "exact"},
    "wdpo exact absolute": WDPO | {"gradient": "exact", "radius_unit": "absolute"},
    "wdpo squared exact": WDPO | {"gradient": "exact", "radius_unit": "absolute", "form": "squared"},
    "wdpo forward": WDPO | {"gradient": "forward"},
    "wdpo central": WDPO | {"gradient": "central"},
}


def examples(count: int = 12, seed: int = 0, weights: bool = False) -> list[dict]:
    rng = np.random.default_rng(seed)
    ids = lambda low, high: rng.integers(3, 97, rng.integers(low, high)).tolist()  # noqa: E731
    rows = [
        {"row": i, "prompt": [1, *ids(1, 6)], "chosen": [*ids(1, 7), 2], "rejected": [*ids(1, 7), 2],
         "reference": (float(rng.normal(-30, 4)), float(rng.normal(-30, 4))), "score_gap": 1.0}
        for i in range(count)
    ]  # fmt: skip
    return [row | {"weight": float(rng.uniform(0.1, 2))} for row in rows] if weights else rows


def gradient(model, method: dict, rows: list[dict], sizes: list[int]) -> tuple[float, torch.Tensor]:
    """Value and flat parameter gradient of the objective over ``rows`` cut into micro-batches of ``sizes``."""
    collate, step = PairCollator(pad=0), objective_step(build_objective(method))
    cuts = np.cumsum([0, *sizes])
    batches = [collate(rows[a:b]) for a, b in itertools.pairwise(cuts)]
    model.zero_grad()
    plan, total = step.plan(model, batches), 0.0
    for i, batch in enumerate(batches):
        loss, _ = step.loss(model, batch, plan, i)
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("sizes", [[1] * 12, [5, 4, 3]], ids=["12x1", "ragged"])
def test_the_cut_into_micro_batches_changes_nothing(method: dict, sizes: list[int], weights: bool) -> None:
    model, rows = tiny_gpt2(torch.float64), examples(weights=weights)
    whole, cut = gradient(model, method, rows, [12]), gradient(model, method, rows, sizes)
    assert cut[0] == pytest.approx(whole[0], rel=1e-9)
    torch.testing.assert_close(cut[1], whole[1], rtol=1e-7, atol=1e-10 * float(whole[1].abs().max()))


def test_scope_microbatch_depends_on_the_cut() -> None:
    """What the paper's code does: a method of its own, not an approximation that hides."""
    model, method = tiny_gpt2(torch.float64), METHODS["kldpo"] | {"scope": "microbatch"}
    whole, cut = (gradient(model, method, examples(), sizes)[1] for sizes in ([12], [4, 4, 4]))
    assert (whole - cut).norm() > 1e-3 * whole.norm()


@pytest.mark.parametrize(
    "limit",
    [
        METHODS["kldpo"] | {"temperature": float("inf")},
        METHODS["kldpo radius"] | {"radius": 0.0},
        METHODS["drdpo"] | {"temperature": float("inf")},
        *(METHODS[name] | {"radius": 0.0} for name in METHODS if name.startswith("wdpo")),
    ],
    ids=lambda m: " ".join(map(str, m.values())),
)
def test_radius_zero_and_infinite_temperature_are_dpo(limit: dict) -> None:
    model, rows = tiny_llama(), examples()
    dpo, same = gradient(model, METHODS["dpo"], rows, [6, 6]), gradient(model, limit, rows, [6, 6])
    assert same[0] == pytest.approx(dpo[0], rel=1e-6)
    torch.testing.assert_close(same[1], dpo[1], rtol=1e-6, atol=1e-6 * float(dpo[1].abs().max()))


@pytest.mark.parametrize("name", ["kldpo", "kldpo radius", "wdpo exact absolute", "wdpo squared exact"])
def test_gradient_against_finite_differences(name: str) -> None:
    """d/dt of the whole objective, its inner maximum solved anew at every t, along a random direction (Danskin)."""
    model, rows, method = tiny_gpt2(torch.float64), examples(), METHODS[name]
    model.requires_grad_(True)
    _, found = gradient(model, method, rows, [12])
    torch.manual_seed(1)
    direction = torch.randn_like(found) / len(found) ** 0.5
    h = 1e-5
    shifted = []
    for sign in (1, -1):
        move(model, sign * h * direction)
        shifted.append(objective_value(model, method, rows))
        move(model, -sign * h * direction)
    assert (shifted[0] - shifted[1]) / (2 * h) == pytest.approx(float(found @ direction), rel=1e-6)


def move(model, by: torch.Tensor) -> None:
    parts = by.split([p.numel() for p in model.parameters()])
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), parts, strict=True):
            parameter += part.view_as(parameter)


def objective_value(model, method: dict, rows: list[dict]) -> float:
    """sup over the KL ball at a fixed radius or temperature (value - tau KL), or l + penalty."""
    step, batch = objective_step(build_objective(method)), PairCollator(pad=0)(rows)
    plan = step.plan(model, [batch])
    if plan.statistics is not None:
        with torch.no_grad():
            losses = step.objective.loss.losses(pair_terms(batch, sequence_logps(model, rows_of(batch))))
        return float(losses.mean()) + plan.diagnostics["penalty"]
    step.loss(model, batch, plan, 0)
    penalised = plan.value.dual * plan.value.divergence if "temperature" in method else 0.0
    return float(plan.value.value) - penalised


@pytest.mark.parametrize("form", [{}, {"form": "squared", "radius_unit": "absolute"}], ids=["root", "squared"])
@pytest.mark.parametrize("prompt", ["joint", "per_sequence"])
def test_first_order_forms_tend_to_the_double_backward(form: dict, prompt: str) -> None:
    """forward and central as their step shrinks, moved inputs as the radius does."""
    model, rows = tiny_gpt2(torch.float64), examples()
    base = WDPO | form | {"prompt": prompt, "radius": 1e-3}
    exact = gradient(model, base | {"gradient": "exact"}, rows, [12])[1]
    nominal = gradient(model, METHODS["dpo"], rows, [12])[1]
    penalty = exact - nominal
    for name, tolerance in (("forward", 1e-4), ("central", 1e-7)):
        found = gradient(model, base | {"gradient": name, "step_ratio": 1e-6}, rows, [12])[1] - nominal
        assert (found - penalty).norm() < tolerance * penalty.norm()
    errors = []
    for radius in (1e-3, 1e-4):
        settings = base | {"radius": radius}
        target = gradient(model, settings | {"gradient": "exact"}, rows, [12])[1]
        errors.append(float((gradient(model, settings | {"gradient": "moved"}, rows, [12])[1] - target).norm()))
    assert errors[1] < errors[0] / 50, "moved inputs agree to second order in the radius"


def test_relative_radius_is_the_displacement() -> None:
    model, batch = tiny_gpt2(torch.float64), PairCollator(pad=0)(examples())
    plan = objective_step(build_objective(WDPO | {"prompt": "per_sequence"})).plan(model, [batch])
    step = plan.moves[0][1]
    mask = batch["attention_mask"]
    embeddings = model.get_input_embeddings().weight.detach()[batch["input_ids"]]
    rms = lambda x: float(x[mask].square().mean().sqrt())  # noqa: E731
    assert rms(step * plan.directions[0]) / rms(embeddings) == pytest.approx(0.05, rel=1e-9)
    assert float((plan.directions[0][~mask]).abs().max()) == 0, "padding has no gradient"
    assert isinstance(plan.statistics, InputStatistics)


def test_policy_equal_to_reference_has_loss_ln2_and_uniform_weights() -> None:
    model = tiny_gpt2()
    batch = PairCollator(pad=0)(examples())
    with torch.no_grad():
        batch["ref_logps"] = sequence_logps(model, rows_of(batch))
    step = objective_step(build_objective(METHODS["kldpo"]))
    loss, columns = step.loss(model, batch, step.plan(model, [batch]), 0)
    assert float(loss.detach()) == pytest.approx(np.log(2), rel=1e-6)
    torch.testing.assert_close(columns["weight"], torch.ones(12), rtol=1e-5, atol=0)


@pytest.mark.parametrize("sizes", [[12], [5, 4, 3]], ids=["whole", "ragged"])
def test_logits_sam_is_dpo_at_the_worst_output_weights(sizes: list[int]) -> None:
    """The definition, with a head of its own: G by autograd, the weights really moved, one DPO gradient."""
    radius, rows = 0.5, examples(weights=True)
    model = tiny_llama(torch.float64, tie_word_embeddings=False)
    head = model.get_output_embeddings().weight
    found = gradient(model, METHODS["dpo"] | {"set": "output_layer", "radius": radius}, rows, sizes)
    gradient(model, METHODS["dpo"], rows, [12])
    slope = head.grad.clone()
    with torch.no_grad():
        head += radius * slope / slope.norm()
    expected = gradient(model, METHODS["dpo"], rows, [12])
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-13)


def test_the_difference_step_is_reported_and_has_the_asked_size() -> None:
    model, batch = tiny_gpt2(torch.float64), PairCollator(pad=0)(examples())
    plan = objective_step(build_objective(WDPO | {"gradient": "central", "step_ratio": 1e-4})).plan(model, [batch])
    eta, sums = plan.diagnostics["difference_step"], plan.statistics
    assert [step for _, step in plan.moves] == [eta, -eta]
    assert eta * float((sums.gradient_square / sums.embedding_square).sqrt()) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "other", [{"set": "kl", "temperature": 0.5}, WDPO | {"loss": "beta_dpo"}, {"set": "output_layer", "radius": 0.1}]
)
@pytest.mark.parametrize("scope", ["batch", "microbatch"])
def test_an_adaptive_loss_goes_with_any_set(other: dict, scope: str) -> None:
    """The batch's own loss is found before the set looks at it, and a resumed step learns on from where it was."""
    method = {
        "name": "b",
        "loss": "beta_dpo",
        "beta": 0.3,
        "scaling": 0.6,
        "filtered": 0.25,
        "momentum": 0.9,
        "scope": scope,
    }
    model, rows = tiny_gpt2(torch.float64), examples()
    value, found = gradient(model, method | other, rows, [12])
    cut, found_cut = gradient(model, method | other, rows, [5, 7])
    assert np.isfinite(value) and bool(found.norm() > 0)
    if scope == "batch":
        assert cut == pytest.approx(value, rel=1e-9)
        torch.testing.assert_close(found_cut, found, rtol=1e-7, atol=1e-10 * float(found.abs().max()))


def test_what_loss_and_set_have_learnt_goes_through_a_checkpoint() -> None:
    method = METHODS["kldpo radius"] | {
        "scope": "stream",
        "loss": "beta_dpo",
        "scaling": 0.6,
        "filtered": 0.25,
        "momentum": 0.9,
    }
    model, batch = tiny_gpt2(torch.float64), PairCollator(pad=0)(examples())
    first, second = (objective_step(build_objective(method)) for _ in range(2))
    first.loss(model, batch, first.plan(model, [batch]), 0)
    second.load_state_dict(first.state_dict())
    one, other = (step.loss(model, batch, step.plan(model, [batch]), 0)[0] for step in (first, second))
    assert float(one.detach()) == float(other.detach())


FORWARDS = {
    "dpo, one micro-batch": (METHODS["dpo"], [12], 1),
    "kldpo, one": (METHODS["kldpo"], [12], 1),
    "kldpo, three: a look at each, of which the last serves its loss": (METHODS["kldpo"], [5, 4, 3], 5),
    "wdpo, one: the gradient of the inputs, then the moved inputs": (WDPO, [12], 2),
    "exact, one": (WDPO | {"gradient": "exact"}, [12], 1),
    "exact, three: the statistics of all, then each with its penalty": (WDPO | {"gradient": "exact"}, [5, 4, 3], 6),
}


@pytest.mark.parametrize(("method", "sizes", "count"), FORWARDS.values(), ids=FORWARDS)
def test_how_many_forwards_a_step_takes(method: dict, sizes: list[int], count: int) -> None:
    """Counted in a second step: the first compares packed rows with padded ones."""
    model, collate, step = tiny_gpt2(), PairCollator(pad=0), objective_step(build_objective(method))
    rows, cuts, calls = examples(), np.cumsum([0, *sizes]), list[int]()
    batches = [collate(rows[a:b]) for a, b in itertools.pairwise(cuts)]
    for _ in range(2):
        handle = model.register_forward_hook(lambda *_: calls.append(1))
        calls.clear()
        plan = step.plan(model, batches)
        for index in reversed(range(len(batches))):
            step.loss(model, batches[index], plan, index)[0].backward()
        handle.remove()
    assert not plan.taken
    assert len(calls) == count
