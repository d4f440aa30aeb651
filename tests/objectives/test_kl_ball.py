import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from robustalign.objectives import KLBall, SigmoidLoss, radius_for_temperature, temperature_for_radius

RADII = (1e-6, 0.01, 0.1, 0.5)


def ball(radius):
    return lambda p, q: [cp.sum(cp.rel_entr(p, q)) <= radius]


@pytest.mark.parametrize("direction", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("radius", RADII[1:])
def test_value_and_weights_are_the_convex_solvers(losses, weight, radius, direction, convex_worst_case):
    ours = KLBall(radius=radius, direction=direction).worst_case(losses, weight=weight)
    value, law = convex_worst_case(losses, weight, ball(radius), minimise=direction == "optimistic")
    spread = float(losses.max() - losses.min())
    assert float(ours.value) == pytest.approx(value, abs=1e-8 * spread)
    if ours.dual > 0:  # else tied losses may share the mass in any way
        np.testing.assert_allclose(ours.weights.numpy() / len(losses), law, atol=3e-5)


@pytest.mark.parametrize("direction", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("radius", [*RADII, 0.69])
def test_solved_temperature_has_the_radius(losses, weight, radius, direction, prior_law):
    reach = temperature_for_radius(losses, radius, weight=weight, direction=direction)
    if reach == 0:  # the ball holds the law on the extreme losses
        extreme = losses.max() if direction == "pessimistic" else losses.min()
        assert radius >= -math.log(prior_law(losses, weight)[(losses == extreme).numpy()].sum())
        return
    assert radius_for_temperature(losses, reach, weight=weight, direction=direction) == pytest.approx(radius, abs=1e-10)


def test_solver_is_exact_for_a_data_set():
    generator = torch.Generator().manual_seed(0)
    losses = torch.nn.functional.softplus(torch.randn(10_000, generator=generator, dtype=torch.float64))
    for radius in (1e-10, 1e-4, 0.1, 1.0, 5.0, 9.0):
        temperature = temperature_for_radius(losses, radius)
        assert abs(radius_for_temperature(losses, temperature) - radius) < 1e-10 * max(1.0, radius)
    assert temperature_for_radius(losses, math.log(10_000)) == 0


@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.3, 0.9, 1 - 1e-3, 1 - 1e-9])
def test_solver_is_exact_on_hard_problems(problems, prior_law, share):
    """At every share of the largest divergence the losses allow; the divergence is recomputed from the weights."""
    for losses, weight in problems:
        q = prior_law(losses, weight)
        radius = -share * math.log(min(q[(losses == losses.max()).numpy()].sum(), 1.0))
        robust = KLBall(radius=radius).worst_case(losses, weight=weight)
        p = robust.weights.numpy() / len(losses)
        realised = (p * np.log(np.where(p > 0, p, 1) / q)).sum()
        assert realised == pytest.approx(radius, abs=1e-10)
        assert robust.divergence == pytest.approx(radius, abs=1e-10)


def test_small_radius_rule():
    losses = torch.tensor([0.2, 0.7, 0.9, 1.4], dtype=torch.float64)
    for radius in (1e-8, 1e-10, 1e-12):
        rule = math.sqrt(float(losses.var(correction=0)) / (2 * radius))
        assert temperature_for_radius(losses, radius) == pytest.approx(rule, rel=30 * math.sqrt(radius))


@pytest.mark.parametrize("radius", RADII)
def test_dual_equals_primal(losses, weight, radius, prior_law):
    robust = KLBall(radius=radius).worst_case(losses, weight=weight)
    if robust.dual == 0:
        assert float(robust.value) == float(losses.max())
        return
    log_prior = torch.from_numpy(np.log(prior_law(losses, weight)))
    log_mean_exp = torch.logsumexp(losses / robust.dual + log_prior, 0)
    dual = robust.dual * radius + robust.dual * float(log_mean_exp)
    assert float(robust.value) == pytest.approx(dual, rel=1e-9, abs=1e-9)


def test_temperature_form_is_the_penalised_value(losses):
    for tau in (0.05, 0.5, 5.0):
        robust = KLBall(temperature=tau).worst_case(losses)
        penalised = tau * float(torch.logsumexp(losses / tau, 0) - math.log(len(losses)))
        assert float(robust.value) - tau * robust.divergence == pytest.approx(penalised, rel=1e-12)
        optimistic = KLBall(temperature=tau, direction="optimistic").worst_case(losses)
        dr_dpo = -tau * float(torch.logsumexp(-losses / tau, 0) - math.log(len(losses)))  # arXiv 2407.07880
        assert float(optimistic.value) + tau * optimistic.divergence == pytest.approx(dr_dpo, rel=1e-12)


@pytest.mark.parametrize("settings", [{"radius": 0.2}, {"temperature": 0.3}])
def test_gradient_against_finite_differences(settings):
    margin = torch.tensor([-3.0, 0.5, 2.0, 11.0, -0.1], dtype=torch.float64, requires_grad=True)
    loss, kl = SigmoidLoss(0.7), KLBall(**settings)

    def objective(h):
        robust = kl.worst_case(loss.losses(h))
        penalty = settings.get("temperature", 0.0) * robust.divergence
        return robust.value - penalty

    (gradient,) = torch.autograd.grad(kl.worst_case(loss.losses(margin)).value, margin)
    step = 1e-5
    for i in range(len(margin)):
        shift = torch.zeros_like(margin)
        shift[i] = step
        with torch.no_grad():
            slope = float(objective(margin + shift) - objective(margin - shift)) / (2 * step)
        assert float(gradient[i]) == pytest.approx(slope, rel=1e-6, abs=1e-10)


def test_paper_and_released_weights_by_hand():
    """l = (0, ln 2, ln 4), tau = 1/2: exp(l / tau) = (1, 4, 16), so Algorithm 2 has p = (1, 4, 16) / 21.

    The mean of l is ln 2, so the released code has exp((l - mean) / tau) = (1/4, 1, 4), undivided; mean 7/4.
    At tau = 1/4 they are (1/16, 1, 16), and 16 is cut to 10.
    """
    losses = torch.tensor([0.0, math.log(2), math.log(4)], dtype=torch.float64)
    paper = KLBall(temperature=0.5).worst_case(losses)
    torch.testing.assert_close(paper.weights, 3 * torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64) / 21)
    assert float(paper.value) == pytest.approx((4 * math.log(2) + 16 * math.log(4)) / 21)
    assert paper.ess == pytest.approx(21**2 / (1 + 16 + 256))

    released = KLBall(temperature=0.5, normalized=False, clamp=10).worst_case(losses)
    torch.testing.assert_close(released.weights, torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64))
    assert float(released.value) == pytest.approx((math.log(2) + 4 * math.log(4)) / 3)
    assert released.clamped == 0
    cut = KLBall(temperature=0.25, normalized=False, clamp=10).worst_case(losses)
    torch.testing.assert_close(cut.weights, torch.tensor([1 / 16, 1.0, 10.0], dtype=torch.float64))
    assert cut.clamped == pytest.approx(1 / 3)
    both = KLBall(temperature=0.25, clamp=10).worst_case(losses)
    torch.testing.assert_close(both.weights, cut.weights / cut.weights.mean())


def test_optimistic_is_pessimistic_of_negated_losses(losses):
    for settings in ({"radius": 0.1}, {"temperature": 0.2}):
        optimistic = KLBall(**settings, direction="optimistic").worst_case(losses)
        mirrored = KLBall(**settings).worst_case(-losses)
        torch.testing.assert_close(optimistic.weights, mirrored.weights)


def test_micro_batches_with_pooled_weights_add_up(losses):
    """A pass without gradient gives the weights; then any cut of the batch has the whole batch's gradient."""
    margin = (2 - losses).requires_grad_()
    loss, kl = SigmoidLoss(0.5), KLBall(radius=0.1)
    (whole,) = torch.autograd.grad(kl.worst_case(loss.losses(margin)).value, margin)
    weights = kl.worst_case(loss.losses(margin.detach())).weights
    n, cut = len(losses), len(losses) // 3
    parts = [(weights[s] * loss.losses(margin[s])).sum() / n for s in (slice(0, cut), slice(cut, n))]
    (summed,) = torch.autograd.grad(parts[0] + parts[1], margin)
    torch.testing.assert_close(summed, whole, rtol=1e-12, atol=0)


def test_limits_of_the_temperature(losses):
    cold = KLBall(temperature=1e-300).worst_case(losses)
    assert float(cold.value) == pytest.approx(float(losses.max()), rel=1e-15)
    for hot in (math.inf, 1e300):
        robust = KLBall(temperature=hot).worst_case(losses)
        assert float(robust.value) == pytest.approx(float(losses.mean()), rel=1e-14)
        assert robust.ess == pytest.approx(len(losses))


def test_radius_beyond_the_batch_is_the_largest_loss(losses):
    robust = KLBall(radius=50.0).worst_case(losses)
    assert float(robust.value) == float(losses.max()) and robust.dual == 0


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, "radius"),
        ({"radius": 0.1, "temperature": 1.0}, "radius"),
        ({"radius": -0.1}, "radius"),
        ({"radius": math.nan}, "radius"),
        ({"radius": 0.1, "clamp": 10}, "radius"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1.0, "direction": "up"}, "direction"),
        ({"temperature": 1.0, "clamp": 0.0}, "clamp"),
    ],
)
def test_bad_values_name_their_field(settings, key):
    with pytest.raises(ValueError, match=rf"^{key}: "):
        KLBall(**settings)
