"""Duals carried between batches: exact where they must be, less biased where they should be, and resumable."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from robustalign.objectives import ChiSquareBall, CVaR, KLBall
from robustalign.objectives.streaming import FORGOTTEN

BUILDS = {
    "kl_radius": lambda **kw: KLBall(radius=0.5, **kw),
    "kl_temperature": lambda **kw: KLBall(temperature=1.0, **kw),
    "optimistic": lambda **kw: KLBall(radius=0.5, direction="optimistic", **kw),
    "chi_square": lambda **kw: ChiSquareBall(radius=0.5, **kw),
    "cvar": lambda **kw: CVaR(alpha=0.3, **kw),
}


@pytest.fixture(params=sorted(BUILDS))
def build(request):
    return BUILDS[request.param]


def draw(n: int, seed: int) -> torch.Tensor:
    return softplus(torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def test_first_step_is_the_exact_worst_case(build):
    losses = draw(16, 0)
    streamed, exact = build(streaming=True).step(losses), build().worst_case(losses)
    torch.testing.assert_close(streamed.weights, exact.weights, rtol=1e-12, atol=1e-15)
    assert streamed.dual == pytest.approx(exact.dual) and streamed.divergence == pytest.approx(exact.divergence)


def moved(first, second, memory):
    """``first`` at the level of now: the running mean and deviation, which fade eight times faster than the shape."""
    fade = math.exp(-len(first) / (memory / 8))
    weights = torch.tensor([fade] * len(first) + [1.0] * len(second), dtype=torch.float64)
    both, weights = torch.cat([first, second]), weights / weights.sum()
    mean = (weights * both).sum()
    spread = (weights * (both - mean).square()).sum().sqrt()
    return mean + spread * (first - first.mean()) / first.std(correction=0)


def test_weights_are_the_pools_density(build):
    """Old pairs count exp(-age / memory), so the pool is an ordinary prior-weighted worst case."""
    first, second = draw(12, 0), draw(8, 1)
    ball = build(streaming=True, memory=50)
    ball.step(first)
    robust = ball.step(second)
    prior = torch.tensor([math.exp(-12 / 50)] * 12 + [1.0] * 8, dtype=torch.float64)
    pool = build().worst_case(torch.cat([moved(first, second, 50), second]), weight=prior)
    density = (pool.weights / prior * prior.sum() / 20)[12:]
    torch.testing.assert_close(robust.weights, density, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(robust.value, (robust.weights * second).mean(), rtol=1e-14, atol=0)
    assert robust.dual == pytest.approx(pool.dual, rel=1e-9)


def test_kl_weights_use_the_running_normaliser():
    """By hand: exp(l / tau) over the faded mean of exp(l / tau)."""
    first, second, tau, fade = draw(4, 0), draw(4, 1), 0.7, math.exp(-4 / 20)
    ball = KLBall(temperature=tau, streaming=True, memory=20)
    ball.step(first)
    old = (moved(first, second, 20) / tau).exp()
    normaliser = (fade * old.sum() + (second / tau).exp().sum()) / (4 * fade + 4)
    torch.testing.assert_close(ball.step(second).weights, (second / tau).exp() / normaliser, rtol=1e-12, atol=0)


def test_level_and_spread_follow_a_learning_policy(build):
    """Losses that fall and widen from batch to batch weigh as if they had stood still. The batch is long enough for
    the level to be its own (fade exp(-32)), the memory long enough to matter (fade exp(-4))."""
    still, learning = build(streaming=True, memory=8), build(streaming=True, memory=8)
    for step in range(6):
        scale = 1.0 if getattr(still, "temperature", None) else 0.5 + 0.1 * step
        expected = still.step(draw(32, step))
        robust = learning.step(scale * draw(32, step) - 0.2 * step)
    torch.testing.assert_close(robust.weights, expected.weights, rtol=1e-9, atol=1e-12)


def test_a_hard_batch_counts_for_more(build):
    ball = build(streaming=True)
    for seed in range(10):
        ball.step(draw(32, seed))
    easy, hard = ball.worst_case(draw(32, 99)), ball.worst_case(draw(32, 99) + 1.0)
    assert (float(hard.weights.mean()) > float(easy.weights.mean())) is (getattr(ball, "direction", "") != "optimistic")


def test_asking_changes_nothing_and_says_what_a_step_would(build):
    ball = build(streaming=True)
    ball.step(draw(16, 0))
    before = ball.state_dict()
    asked = ball.worst_case(draw(16, 1))
    assert all(torch.equal(before[k], v) for k, v in ball.state_dict().items())
    assert float(ball.step(draw(16, 1)).value) == float(asked.value)


def test_resumed_equals_uninterrupted(build):
    one, other = build(streaming=True, memory=10), build(streaming=True, memory=10)
    for seed in range(5):
        one.step(draw(16, seed))
    other.load_state_dict(one.state_dict())
    for seed in range(5, 8):
        assert torch.equal(one.step(draw(16, seed)).weights, other.step(draw(16, seed)).weights)


def test_memory_is_bounded_and_fades(build):
    ball = build(streaming=True, memory=8)
    for seed in range(30):
        ball.step(draw(4, seed))
    ages = ball.state_dict()["ages"]
    assert len(ages) == 8 * FORGOTTEN and float(ages.max()) <= 8 * FORGOTTEN


def test_padding_rows_and_broken_batches_leave_no_trace(build):
    clean, padded = build(streaming=True), build(streaming=True)
    clean.step(draw(6, 0))
    padded.step(torch.cat([draw(6, 0), torch.tensor([9.0, math.inf])]), weight=torch.tensor([1.0] * 6 + [0.0] * 2))
    padded.step(torch.tensor([0.3, math.nan]))
    padded.step(torch.tensor([math.inf, math.inf]))
    for name, value in clean.state_dict().items():
        torch.testing.assert_close(padded.state_dict()[name], value, rtol=1e-15, atol=0)


def test_equal_losses_teach_the_level_alone(build):
    """The first batches of a policy that is still the reference."""
    ball = build(streaming=True)
    for _ in range(3):
        robust = ball.step(torch.full((8,), math.log(2), dtype=torch.float64))
        torch.testing.assert_close(robust.weights, torch.ones(8, dtype=torch.float64), rtol=1e-12, atol=0)
    assert len(ball.state_dict()["shapes"]) == 0 and float(ball.state_dict()["level"][1]) == pytest.approx(math.log(2))


def test_single_pairs_can_stream(build):
    ball = build(streaming=True)
    weights = torch.cat([ball.step(loss[None]).weights for loss in draw(400, 3)])
    assert float(weights[100:].mean()) == pytest.approx(1, abs=0.15) and float(weights[100:].std()) > 0.3


def test_constant_shift_of_all_losses_leaves_the_weights(build):
    plain, shifted = build(streaming=True), build(streaming=True)
    for seed in range(4):
        weights = plain.step(draw(16, seed)).weights
        torch.testing.assert_close(shifted.step(draw(16, seed) + 3.0).weights, weights, rtol=1e-9, atol=1e-12)


def test_without_streaming_nothing_is_learnt(build):
    ball = build()
    first = ball.step(draw(16, 0))
    assert ball.state_dict() == {} and float(ball.step(draw(16, 0)).value) == float(first.value)
    with pytest.raises(ValueError, match=r"^state: "):
        ball.load_state_dict(build(streaming=True).state_dict())


@pytest.mark.parametrize("name", ["kl_radius", "chi_square", "cvar"])
def test_small_batches_aim_at_the_population(name):
    """Batches of 4 from 2,000 pairs: pooling the memory more than halves the bias of the batch's own worst case."""
    population = draw(2000, 7)
    target = float(BUILDS[name]().worst_case(population).value - population.mean())
    shares = {}
    for streaming in (False, True):
        ball = BUILDS[name](streaming=streaming)
        values = [float(ball.step(batch).value) for batch in population.view(-1, 4)]
        shares[streaming] = (sum(values) / len(values) - float(population.mean())) / target
    assert abs(1 - shares[True]) < 0.5 * abs(1 - shares[False])


def test_degenerate_radius_counts_the_memory():
    KLBall(radius=2.0, streaming=True).check(4)
    with pytest.raises(ValueError, match=r"^radius: "):
        KLBall(radius=2.0).check(4)
    CVaR(alpha=0.1, streaming=True).check(4)
    with pytest.raises(ValueError, match=r"^alpha: "):
        CVaR(alpha=0.1).check(4)


def test_unnormalised_weights_cannot_stream():
    with pytest.raises(ValueError, match=r"^streaming: "):
        KLBall(temperature=1.0, normalized=False, clamp=10, streaming=True)


def test_pairs_without_weight_do_not_lighten_the_batch_beside_the_memory():
    """The batch counts for as many pairs as have weight, however many others it holds."""
    losses, before = draw(6, 1), draw(8, 2)
    answers = []
    for extra in (0, 5):
        ball = KLBall(radius=0.2, streaming=True, memory=16)
        ball.step(before)
        padded = torch.cat([losses, torch.full((extra,), 9.0, dtype=losses.dtype)])
        weight = torch.cat([torch.ones(6), torch.zeros(extra)])
        answers.append(ball.worst_case(padded, weight=weight).dual)
    assert answers[0] == pytest.approx(answers[1], rel=1e-12)
