import math

import pytest
import torch
from torch import Tensor

from robustalign.objectives import InputStatistics, SigmoidLoss, WassersteinBall

B, T, D = 3, 5, 4


class Toy:
    """A smooth policy on embedded tokens, double differentiable; prompts of 2 tokens, right padding."""

    def __init__(self, pairs: int = B, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embeddings = torch.randn(2 * pairs, T, D, generator=generator, dtype=torch.float64)
        self.embeddings[pairs:, :2] = self.embeddings[:pairs, :2]
        self.theta = torch.randn(D, D, generator=generator, dtype=torch.float64).requires_grad_()
        lengths = torch.tensor([5, 4, 3]).repeat(math.ceil(2 * pairs / 3))[: 2 * pairs]
        self.mask = torch.arange(T) < lengths[:, None]
        self.prompt_mask = (torch.arange(T) < 2).expand(2 * pairs, T)

    def losses(self, embeddings: Tensor) -> Tensor:
        states = torch.tanh(embeddings @ self.theta) * self.mask.unsqueeze(-1)
        scores = (states.cumsum(1) ** 2).sum((1, 2))
        chosen, rejected = scores.chunk(2)
        return SigmoidLoss(0.3).losses(chosen - rejected)

    def gradients(self, create_graph: bool = False) -> Tensor:
        inputs = self.embeddings.clone().requires_grad_()
        (gradients,) = torch.autograd.grad(self.losses(inputs).sum(), inputs, create_graph=create_graph)
        return gradients

    def statistics(self, ball: WassersteinBall, weight: Tensor | None = None, create_graph: bool = False):
        gradients = ball.joint(self.gradients(create_graph), self.prompt_mask)
        return gradients, ball.statistics(gradients, self.embeddings, self.mask, self.prompt_mask, weight)

    def parameter_gradient(self, embeddings: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(self.losses(embeddings).mean(), self.theta)
        return gradient


def squared_norms(toy: Toy, prompt: str) -> Tensor:
    """||g_i||^2 of each pair by a loop over pairs, the prompt being one input or two."""
    norms = []
    for i in range(len(toy.embeddings) // 2):
        rows = toy.embeddings[[i, i + len(toy.embeddings) // 2]]
        shared = rows[0, :2].clone().requires_grad_()
        other = rows[1, :2].clone().requires_grad_() if prompt == "per_sequence" else shared
        chosen, rejected = rows[0, 2:].clone().requires_grad_(), rows[1, 2:].clone().requires_grad_()
        inputs = toy.embeddings.clone()
        inputs[i] = torch.cat([shared, chosen])
        inputs[i + len(toy.embeddings) // 2] = torch.cat([other, rejected])
        wanted = [shared, chosen, rejected] + ([other] if prompt == "per_sequence" else [])
        norms.append(sum(g.square().sum() for g in torch.autograd.grad(toy.losses(inputs)[i], wanted)))
    return torch.stack(norms)


@pytest.mark.parametrize("prompt", ["joint", "per_sequence"])
def test_gradient_norms_equal_a_loop_over_pairs(prompt):
    toy, ball = Toy(), WassersteinBall(radius=0.1, prompt=prompt)
    _, stats = toy.statistics(ball)
    assert float(stats.gradient_square) == pytest.approx(float(squared_norms(toy, prompt).sum()), rel=1e-12)


def test_joint_prompt_counts_once():
    toy = Toy()
    _, joint = toy.statistics(WassersteinBall(radius=0.1))
    _, separate = toy.statistics(WassersteinBall(radius=0.1, prompt="per_sequence"))
    assert float(joint.elements) == float(toy.mask.sum() - 2 * B) * D
    assert float(separate.elements) == float(toy.mask.sum()) * D
    prompt_square = toy.embeddings[:B, :2].square().sum()
    assert float(separate.embedding_square - joint.embedding_square) == pytest.approx(float(prompt_square), rel=1e-12)


@pytest.mark.parametrize("form", ["root", "squared"])
def test_penalty_and_coefficient(form):
    toy, rho = Toy(), 0.7
    ball = WassersteinBall(radius=rho, form=form, radius_unit="absolute")
    _, stats = toy.statistics(ball)
    mean = float(squared_norms(toy, "joint").mean())
    expected = rho * math.sqrt(mean) if form == "root" else rho * mean
    assert float(ball.penalty(stats)) == pytest.approx(expected, rel=1e-12)
    assert float(ball.coefficient(stats)) == pytest.approx(rho / (2 * math.sqrt(mean)) if form == "root" else rho)


def penalty_of(toy: Toy, ball: WassersteinBall, weight: Tensor | None) -> Tensor:
    return ball.penalty(toy.statistics(ball, weight)[1])


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0])])
@pytest.mark.parametrize("prompt", ["joint", "per_sequence"])
@pytest.mark.parametrize("form", ["root", "squared"])
def test_exact_gradient_against_finite_differences(form, prompt, weight):
    toy, step = Toy(), 1e-6
    ball = WassersteinBall(radius=0.2, form=form, radius_unit="absolute", prompt=prompt, gradient="exact")
    _, stats = toy.statistics(ball, weight, create_graph=True)
    (gradient,) = torch.autograd.grad(ball.surrogate(stats), toy.theta)
    for i, j in ((0, 0), (1, 3), (3, 2)):
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                toy.theta[i, j] += sign * step
            ends.append(float(penalty_of(toy, ball, weight)))
            with torch.no_grad():
                toy.theta[i, j] -= sign * step
        assert float(gradient[i, j]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("gradient", ["forward", "central"])
@pytest.mark.parametrize("form", ["root", "squared"])
def test_differences_of_first_order_gradients_reach_the_exact_one(form, gradient):
    toy, ratio = Toy(), {"central": 1e-6, "forward": 1e-8}[gradient]
    ball = WassersteinBall(radius=0.2, form=form, radius_unit="absolute", gradient=gradient, step_ratio=ratio)
    graph, with_graph = toy.statistics(ball, create_graph=True)
    (exact,) = torch.autograd.grad(ball.surrogate(with_graph), toy.theta)
    g, stats = graph.detach(), with_graph
    c, eta = ball.coefficient(stats), ball.finite_difference_step(stats)
    ahead = toy.parameter_gradient(toy.embeddings + eta * g)
    if gradient == "central":
        taken = c * (ahead - toy.parameter_gradient(toy.embeddings - eta * g)) / eta
    else:
        taken = 2 * c * (ahead - toy.parameter_gradient(toy.embeddings)) / eta
    assert float((taken - exact).norm() / exact.norm()) < {"central": 1e-8, "forward": 1e-6}[gradient]


@pytest.mark.parametrize("form", ["root", "squared"])
def test_moved_inputs_reach_the_exact_gradient_as_the_radius_vanishes(form):
    toy, errors = Toy(), []
    for radius in (1e-4, 1e-5):
        ball = WassersteinBall(radius=radius, form=form, radius_unit="absolute")
        graph, stats = toy.statistics(ball, create_graph=True)
        (penalty,) = torch.autograd.grad(ball.surrogate(stats), toy.theta)
        moved = toy.parameter_gradient(toy.embeddings + ball.offsets(graph, stats))
        errors.append(float((moved - toy.parameter_gradient(toy.embeddings) - penalty).norm() / penalty.norm()))
    assert errors[0] < 0.005 and errors[1] == pytest.approx(errors[0] / 10, rel=0.03)


def test_root_offsets_have_the_absolute_radius():
    toy, ball = Toy(), WassersteinBall(radius=0.3, radius_unit="absolute", prompt="per_sequence")
    g, stats = toy.statistics(ball)
    assert float((ball.offsets(g, stats).square().sum() / B).sqrt()) == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize("prompt", ["joint", "per_sequence"])
def test_relative_radius_is_displacement_over_embedding(prompt):
    toy, ball = Toy(), WassersteinBall(radius=0.02, prompt=prompt)
    g, stats = toy.statistics(ball)
    counted = toy.mask.clone()
    if prompt == "joint":
        counted[B:, :2] = False
    moved, still = ball.offsets(g, stats)[counted], toy.embeddings[counted]
    assert float(moved.square().mean().sqrt() / still.square().mean().sqrt()) == pytest.approx(0.02, rel=1e-12)
    assert float(ball.relative_displacement(stats)) == pytest.approx(0.02, rel=1e-12)


def test_joint_offsets_move_both_copies_of_the_prompt_alike():
    toy, ball = Toy(), WassersteinBall(radius=0.1)
    g, stats = toy.statistics(ball)
    offsets = ball.offsets(g, stats)
    torch.testing.assert_close(offsets[:B, :2], offsets[B:, :2], rtol=0, atol=0)
    raw = toy.gradients()
    torch.testing.assert_close(g[:B, :2], raw[:B, :2] + raw[B:, :2])
    torch.testing.assert_close(g[:, 2:], raw[:, 2:], rtol=0, atol=0)
    assert not offsets[~toy.mask].any()


def test_finite_difference_step_is_relative_to_the_embeddings():
    toy, ball = Toy(), WassersteinBall(radius=0.1, gradient="central", step_ratio=1e-3)
    _, stats = toy.statistics(ball)
    eta = ball.finite_difference_step(stats)
    assert float(eta * stats.gradient_square.sqrt()) == pytest.approx(1e-3 * float(stats.embedding_square.sqrt()))
    defaults = WassersteinBall(radius=0.1, gradient="central")
    ratio = defaults.finite_difference_step(stats, torch.bfloat16) / defaults.finite_difference_step(stats)
    assert float(ratio) == pytest.approx(50)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 3.0, 0.0, 2.0, 0.5])])
def test_statistics_add_over_ragged_micro_batches(weight):
    toy = Toy(pairs=5)
    ball = WassersteinBall(radius=0.1)
    g, whole = toy.statistics(ball, weight)
    parts = []
    for pairs in ([0, 1], [2], [3, 4]):
        rows = pairs + [i + 5 for i in pairs]
        part = None if weight is None else weight[pairs]
        parts.append(ball.statistics(g[rows], toy.embeddings[rows], toy.mask[rows], toy.prompt_mask[rows], part))
    pooled = parts[0] + parts[1] + parts[2]
    torch.testing.assert_close(pooled.to_tensor(), whole.to_tensor(), rtol=1e-13, atol=0)
    again = InputStatistics.from_tensor(pooled.to_tensor())
    assert float(ball.penalty(again)) == pytest.approx(float(ball.penalty(whole)), rel=1e-13)
    scaled = None if weight is None else 7 * weight
    assert float(ball.penalty(toy.statistics(ball, scaled)[1])) == pytest.approx(float(ball.penalty(whole)), rel=1e-13)


def test_surrogates_of_parts_add_up():
    toy = Toy(pairs=4)
    ball = WassersteinBall(radius=0.1, gradient="exact")
    g, whole = toy.statistics(ball, create_graph=True)
    (expected,) = torch.autograd.grad(ball.surrogate(whole), toy.theta, retain_graph=True)
    pooled = InputStatistics.from_tensor(whole.to_tensor())
    total = torch.zeros_like(toy.theta)
    for pairs in ([0, 1, 2], [3]):
        rows = pairs + [i + 4 for i in pairs]
        part = ball.statistics(g[rows], toy.embeddings[rows], toy.mask[rows], toy.prompt_mask[rows])
        total += torch.autograd.grad(ball.surrogate(part, pooled), toy.theta, retain_graph=True)[0]
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-14)


def test_more_padding_changes_nothing():
    toy, ball = Toy(), WassersteinBall(radius=0.1)
    g, stats = toy.statistics(ball)
    pad = lambda x: torch.cat([x, torch.full_like(x[:, :3], 9)], 1)  # noqa: E731
    none = lambda x: torch.cat([x, torch.zeros_like(x[:, :3])], 1)  # noqa: E731
    padded = ball.statistics(none(g), pad(toy.embeddings), none(toy.mask), none(toy.prompt_mask))
    torch.testing.assert_close(padded.to_tensor(), stats.to_tensor(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("form", ["root", "squared"])
def test_zero_gradients_move_nothing(form):
    zero = torch.zeros(2 * B, T, D)
    ones = torch.ones(2 * B, T, dtype=torch.bool)
    ball = WassersteinBall(radius=0.5, form=form, radius_unit="absolute", gradient="central")
    stats = ball.statistics(zero, zero + 1, ones, ones)
    assert float(ball.penalty(stats)) == 0 and not ball.offsets(zero, stats).any()
    assert float(ball.finite_difference_step(stats)) == 0
    assert float(ball.relative_displacement(stats)) == 0


def test_paper_and_released_penalties_by_hand():
    """Two pairs of one-token rows, no prompt, h = theta (x_chosen - x_rejected), beta = 1, theta = 2.

    Pair 1 has h = 0: dl/dh = -1/2, so dl/dx = (-1, +1) and ||g||^2 = 2. Pair 2 has sigmoid(-h) = 1/4 at h = ln 3:
    dl/dx = (-1/2, +1/2) and ||g||^2 = 1/2. The mean is 5/4: rho 5/4 as released, rho sqrt(5/4) in Algorithm 1.
    """
    x = torch.tensor([0.3, math.log(3) / 2, 0.3, 0.0], dtype=torch.float64).view(4, 1, 1).requires_grad_()
    chosen, rejected = (2 * x).flatten().chunk(2)
    (gradients,) = torch.autograd.grad(SigmoidLoss(1.0).losses(chosen - rejected).sum(), x)
    everything = torch.ones(4, 1, dtype=torch.bool)
    for form, penalty in (("squared", 0.01 * 5 / 4), ("root", 0.01 * math.sqrt(5 / 4))):
        ball = WassersteinBall(radius=0.01, form=form, radius_unit="absolute", prompt="per_sequence")
        stats = ball.statistics(gradients, x, everything, ~everything)
        assert float(ball.penalty(stats)) == pytest.approx(penalty, rel=1e-14)
    moved = WassersteinBall(radius=0.01, form="squared", radius_unit="absolute").offsets(gradients, stats)
    expected = 0.02 * torch.tensor([-1.0, -0.5, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(moved.flatten(), expected, rtol=1e-14, atol=0)


def test_one_prompt_or_two_by_hand():
    """A prompt whose two gradients cancel is no risk when it is one input, and 2 * 1^2 of it when it is two."""
    gradients = torch.tensor([1.0, 0.5, -1.0, 0.5], dtype=torch.float64).view(2, 2, 1)
    mask, prompt = torch.ones(2, 2, dtype=torch.bool), torch.tensor([[True, False]] * 2)
    for kind, square in (("joint", 0.5), ("per_sequence", 2.5)):
        ball = WassersteinBall(radius=0.1, prompt=kind)
        stats = ball.statistics(ball.joint(gradients, prompt), gradients, mask, prompt)
        assert float(stats.gradient_square) == square


def test_worst_case_keeps_the_nominal_weights():
    losses, weight = torch.tensor([0.1, 0.5]), torch.tensor([3.0, 1.0])
    robust = WassersteinBall(radius=0.1).worst_case(losses, weight=weight)
    torch.testing.assert_close(robust.weights, torch.tensor([1.5, 0.5]))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"radius": -1.0}, "radius"),
        ({"radius": 0.1, "form": "cube"}, "form"),
        ({"radius": 0.1, "gradient": "x"}, "gradient"),
        ({"radius": 0.1, "radius_unit": "nats"}, "radius_unit"),
        ({"radius": 0.1, "form": "squared"}, "radius_unit"),
        ({"radius": 0.1, "prompt": "both"}, "prompt"),
        ({"radius": 0.1, "step_ratio": 1e-3}, "step_ratio"),
        ({"radius": 0.1, "gradient": "central", "step_ratio": 0.0}, "step_ratio"),
    ],
)
def test_bad_values_name_their_field(settings, key):
    with pytest.raises(ValueError, match=rf"^{key}: "):
        WassersteinBall(**settings)
