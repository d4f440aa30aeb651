"""Every set against a convex solver, its own dual, finite differences, and the edges of its domain."""

import math

import cvxpy as cp
import numpy as np
import pytest
import torch

from robustalign.objectives import (
    SETS,
    ChiSquareBall,
    CVaR,
    GroupBall,
    KLBall,
    Nominal,
    OutputLayerBall,
    SigmoidLoss,
    TVBall,
    WassersteinBall,
)

CHI_SQUARE = [ChiSquareBall(radius=r) for r in (1e-4, 0.1, 0.5, 2.0)]
CVARS = [CVaR(alpha=a) for a in (0.05, 0.3, 0.5, 0.95)]
TVS = [TVBall(radius=r) for r in (0.01, 0.1, 0.45, 0.9)]
ALL = [
    Nominal(),
    KLBall(radius=0.2),
    KLBall(temperature=0.3),
    KLBall(radius=0.2, direction="optimistic"),
    KLBall(temperature=0.3, direction="optimistic"),
    KLBall(temperature=0.3, normalized=False, clamp=10),
    ChiSquareBall(radius=0.5),
    CVaR(alpha=0.4),
    TVBall(radius=0.3),
    GroupBall(form="exact"),
    GroupBall(form="online", step_size=0.5),
    WassersteinBall(radius=0.1),
    OutputLayerBall(radius=0.1),
]
NORMALISED = [s for s in ALL if getattr(s, "normalized", True)]


def label(value) -> str:
    return repr(value) if not isinstance(value, torch.Tensor) else ""


def groups(losses):
    return torch.arange(len(losses)) % 2


def test_all_sets_are_covered():
    assert {type(s) for s in ALL} == set(SETS.values())


def constraint(ambiguity):
    """The ball in the words of the solver; infinite likelihood ratios cannot occur, priors are positive."""

    def ball(p, q):
        if isinstance(ambiguity, ChiSquareBall):
            return [cp.sum_squares(cp.multiply(p - q, q**-0.5)) / 2 <= ambiguity.radius]
        if isinstance(ambiguity, CVaR):
            return [p <= q / ambiguity.alpha]
        return [cp.norm1(p - q) / 2 <= ambiguity.radius]

    return ball


@pytest.mark.parametrize("ambiguity", [*CHI_SQUARE, *CVARS, *TVS], ids=label)
def test_value_and_weights_are_the_convex_solvers(losses, weight, ambiguity, convex_worst_case, prior_law):
    ours = ambiguity.worst_case(losses, weight=weight)
    value, law = convex_worst_case(losses, weight, constraint(ambiguity))
    spread, q = float(losses.max() - losses.min()), prior_law(losses, weight)
    assert float(ours.value) == pytest.approx(value, abs=1e-8 * spread)
    # Tied losses may share mass in any way: the mass on each distinct loss is what both must agree on.
    _, tie = np.unique(losses.numpy(), return_inverse=True)
    ours_p = ours.weights.numpy() / len(losses)
    tolerance = 1e-4 if isinstance(ambiguity, ChiSquareBall) else 1e-6
    np.testing.assert_allclose(np.bincount(tie, ours_p), np.bincount(tie, law), atol=tolerance)
    # ... and ours shares in proportion to the prior.
    for k in range(tie.max() + 1):
        np.testing.assert_allclose(ours_p[tie == k] / q[tie == k], (ours_p[tie == k] / q[tie == k])[0], rtol=1e-9)


@pytest.mark.parametrize("ambiguity", [*CHI_SQUARE, *CVARS, *TVS], ids=label)
def test_worst_law_lies_in_the_ball(losses, weight, ambiguity, prior_law):
    robust = ambiguity.worst_case(losses, weight=weight)
    p, q = robust.weights.numpy() / len(losses), prior_law(losses, weight)
    assert p.min() >= 0 and p.sum() == pytest.approx(1, abs=1e-14)
    if isinstance(ambiguity, ChiSquareBall):
        realised, bound = (q * (p / q - 1) ** 2).sum() / 2, ambiguity.radius
    elif isinstance(ambiguity, CVaR):
        realised, bound = (p / q).max(), 1 / ambiguity.alpha
    else:
        realised, bound = np.abs(p - q).sum() / 2, ambiguity.radius
    assert robust.divergence == pytest.approx(realised, rel=1e-12)
    assert realised <= bound * (1 + 1e-9)
    if robust.ess > 1.001 and float(robust.value) < float(losses.max()) - 1e-12:
        assert realised == pytest.approx(bound, rel=1e-9)


def dual_value(ambiguity, eta, losses, q) -> float:
    excess = (losses - eta).clamp(min=0)
    if isinstance(ambiguity, ChiSquareBall):
        return eta + math.sqrt((1 + 2 * ambiguity.radius) * float((q * excess**2).sum()))
    if isinstance(ambiguity, CVaR):
        return eta + float((q * excess).sum()) / ambiguity.alpha
    r = ambiguity.radius
    return (1 - r) * (eta + float((q * excess).sum()) / (1 - r)) + r * float(losses.max())


@pytest.mark.parametrize("ambiguity", [*CHI_SQUARE, *CVARS, *TVS], ids=label)
def test_dual_equals_primal(losses, weight, ambiguity, prior_law):
    robust = ambiguity.worst_case(losses, weight=weight)
    eta = min(robust.dual, float(losses.max()))  # inf stands for "all mass on the largest loss"
    dual = dual_value(ambiguity, eta, losses, torch.from_numpy(prior_law(losses, weight)))
    assert float(robust.value) == pytest.approx(dual, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("share", [1e-9, 1e-3, 0.3, 0.9, 1 - 1e-3, 1 - 1e-9])
def test_chi_square_is_exact_on_hard_problems(problems, prior_law, share):
    """The divergence is the radius and the primal the dual, at every share of the largest divergence."""
    for losses, weight in problems:
        q = torch.from_numpy(prior_law(losses, weight))
        radius = share * (1 / float(q[losses == losses.max()].sum()) - 1) / 2
        ambiguity = ChiSquareBall(radius=radius)
        robust = ambiguity.worst_case(losses, weight=weight)
        assert robust.divergence == pytest.approx(radius, rel=1e-10)
        spread = float(losses.max() - losses.min())
        precision = 1e-12 + 1e-15 * float(losses.abs().max()) / spread
        dual = dual_value(ambiguity, robust.dual, losses, q)
        if share > 1e-6:  # below, eta lies so far out that this formula loses its digits
            assert abs(float(robust.value) - dual) / spread < 10 * precision


def test_chi_square_drops_the_negative_probabilities_of_the_variance_form():
    """l = (0, 1, 2, 10), radius 1: mean + sqrt(2 radius Var) would need p < 0 for the loss 0. The other three have
    mass 3/4, mean 13/3 and variance 146/9, so the value is 13/3 + sqrt(146/9 (3/4 * 3 - 1))."""
    losses = torch.tensor([0.0, 1.0, 2.0, 10.0], dtype=torch.float64)
    robust = ChiSquareBall(radius=1.0).worst_case(losses)
    variance_form = float(losses.mean()) + math.sqrt(2 * float(losses.var(correction=0)))
    assert float(robust.value) == pytest.approx(13 / 3 + math.sqrt(146 / 9 * 5 / 4), rel=1e-14)
    assert float(robust.value) < variance_form - 0.01 and robust.weights[0] == 0


def test_total_variation_is_a_mixture_of_cvar_and_maximum(losses, weight):
    for radius in (0.1, 0.35, 0.8):
        kept = CVaR(alpha=1 - radius).worst_case(losses, weight=weight)
        expected = (1 - radius) * float(kept.value) + radius * float(losses.max())
        assert float(TVBall(radius=radius).worst_case(losses, weight=weight).value) == pytest.approx(
            expected, rel=1e-12
        )


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
def test_gradient_is_the_weights_and_weights_have_none(losses, ambiguity):
    leaf = losses.clone().requires_grad_()
    robust = ambiguity.worst_case(leaf, group=groups(losses))
    assert not robust.weights.requires_grad
    (gradient,) = torch.autograd.grad(robust.value, leaf)
    torch.testing.assert_close(gradient, robust.weights / len(losses), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "ambiguity", [ChiSquareBall(radius=0.3), CVaR(alpha=0.45), TVBall(radius=0.3), GroupBall(form="exact")], ids=label
)
def test_gradient_against_finite_differences(ambiguity):
    """Danskin: the value's own derivative, with the worst law moving along, is the gradient at fixed weights."""
    margin = torch.tensor([-3.0, 0.5, 2.0, 11.0, -0.1, 1.3], dtype=torch.float64, requires_grad=True)
    loss, step = SigmoidLoss(0.7), 1e-5

    def objective(h):
        return ambiguity.worst_case(loss.losses(h), group=groups(h)).value

    (gradient,) = torch.autograd.grad(objective(margin), margin)
    assert gradient.abs().max() > 1e-3
    for i in range(len(margin)):
        shift = torch.zeros_like(margin)
        shift[i] = step
        with torch.no_grad():
            slope = float(objective(margin + shift) - objective(margin - shift)) / (2 * step)
        assert float(gradient[i]) == pytest.approx(slope, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
@pytest.mark.parametrize("shift", [-5.0, 100.0])
def test_a_constant_shift_leaves_the_weights(losses, ambiguity, shift):
    before = ambiguity.worst_case(losses, group=groups(losses))
    after = ambiguity.worst_case(losses + shift, group=groups(losses))
    rtol = 1e-6 if float(losses.max() - losses.min()) < 1e-3 else 1e-9  # 100 + 1e-4 keeps 10 digits of the spread
    torch.testing.assert_close(after.weights, before.weights, rtol=rtol, atol=1e-10)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
def test_order_of_the_pairs_does_not_matter(losses, weight, ambiguity):
    order = torch.randperm(len(losses), generator=torch.Generator().manual_seed(1))
    group, moved = groups(losses), None if weight is None else weight[order]
    straight = ambiguity.worst_case(losses, weight=weight, group=group)
    shuffled = ambiguity.worst_case(losses[order], weight=moved, group=group[order])
    torch.testing.assert_close(shuffled.weights, straight.weights[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
def test_weights_of_zero_take_pairs_out(ambiguity):
    """Rows repeated to even out ranks: as if they were not there, whatever their losses."""
    losses = torch.tensor([0.3, 0.9, 0.5, 1.4, 0.2], dtype=torch.float64)
    padded = torch.cat([losses, torch.tensor([50.0, math.inf, -3.0], dtype=torch.float64)])
    weight = torch.tensor([1.0, 2.0, 1.0, 0.5, 1.0, 0.0, 0.0, 0.0])
    alone = ambiguity.worst_case(losses, weight=weight[:5], group=groups(losses))
    among = ambiguity.worst_case(padded, weight=weight, group=groups(padded))
    torch.testing.assert_close(among.value, alone.value, rtol=1e-13, atol=0)
    torch.testing.assert_close(among.weights[:5] / 8, alone.weights / 5, rtol=1e-12, atol=0)
    assert not among.weights[5:].any() and among.n == alone.n == 5
    assert among.ess == pytest.approx(alone.ess) and among.divergence == pytest.approx(alone.divergence)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
def test_prior_weights_are_repetitions(ambiguity):
    losses = torch.tensor([0.3, 0.9, 0.5], dtype=torch.float64)
    group = torch.tensor([0, 1, 0])
    counts = torch.tensor([2, 1, 3])
    weighted = ambiguity.worst_case(losses, weight=7 * counts, group=group)
    repeated = ambiguity.worst_case(losses.repeat_interleave(counts), group=group.repeat_interleave(counts))
    assert float(weighted.value) == pytest.approx(float(repeated.value), rel=1e-12)
    assert weighted.divergence == pytest.approx(repeated.divergence, rel=1e-9)


@pytest.mark.parametrize("ambiguity", NORMALISED, ids=label)
def test_equal_losses_keep_the_nominal_law(ambiguity):
    losses, weight = torch.full((6,), math.log(2), dtype=torch.float64), torch.tensor([1.0, 2, 3, 1, 2, 3])
    robust = ambiguity.worst_case(losses, weight=weight, group=torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(robust.weights, weight.double() / weight.mean(), rtol=1e-12, atol=0)
    assert float(robust.value) == pytest.approx(math.log(2), rel=1e-14)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
def test_one_pair_is_its_own_worst_case(ambiguity):
    robust = ambiguity.worst_case(torch.tensor([1.7]), group=torch.tensor([3]))
    assert float(robust.value) == pytest.approx(1.7) and float(robust.weights) == 1 and robust.ess == 1


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
@pytest.mark.parametrize("margins", [[-math.inf, 0.3, 1.0, 2.0], [math.inf, 0.3, -1.0, 2.0], [-math.inf] * 4])
def test_infinite_margins_have_closed_answers(ambiguity, margins):
    margin = torch.tensor(margins, requires_grad=True)
    losses = SigmoidLoss(0.5).losses(margin)
    robust = ambiguity.worst_case(losses, group=groups(losses))
    robust.value.backward()
    assert not torch.isnan(robust.value) and torch.isfinite(robust.weights).all()
    assert torch.isfinite(margin.grad).all()
    keeps_infinite = bool((robust.weights[torch.isinf(losses)] > 0).any())
    assert torch.isinf(robust.value) == keeps_infinite


@pytest.mark.parametrize(
    ("ambiguity", "expected"),
    [
        (KLBall(temperature=5.0), [1.0, 0, 0, 0]),
        (KLBall(temperature=5.0, direction="optimistic"), [0, 1 / 3, 1 / 3, 1 / 3]),
        (ChiSquareBall(radius=9.0), [1.0, 0, 0, 0]),
        (ChiSquareBall(radius=1 / 6), [0.5, 1 / 6, 1 / 6, 1 / 6]),
        (CVaR(alpha=0.25), [1.0, 0, 0, 0]),
        (TVBall(radius=0.75), [1.0, 0, 0, 0]),
    ],
    ids=label,
)
def test_infinite_loss_takes_what_the_ball_allows(ambiguity, expected):
    losses = torch.tensor([math.inf, 0.5, 0.5, 0.5], dtype=torch.float64)
    law = ambiguity.worst_case(losses).weights / 4
    torch.testing.assert_close(law, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_fp32_losses_of_any_size(ambiguity, scale):
    losses = scale * torch.tensor([1.0, 3.0, 2.0, 7.0])
    robust = ambiguity.worst_case(losses, group=groups(losses))
    in_double = ambiguity.worst_case(losses.double(), group=groups(losses))
    assert robust.value.dtype == robust.weights.dtype == torch.float32 and torch.isfinite(robust.value)
    torch.testing.assert_close(robust.value.double(), in_double.value, rtol=1e-6, atol=0)
    torch.testing.assert_close(robust.weights.double(), in_double.weights, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("zero", "whole"),
    [
        (KLBall(radius=0.0), KLBall(radius=99.0)),
        (KLBall(temperature=math.inf), KLBall(temperature=1e-9)),
        (ChiSquareBall(radius=0.0), ChiSquareBall(radius=99.0)),
        (CVaR(alpha=1.0), CVaR(alpha=1e-9)),
        (TVBall(radius=0.0), TVBall(radius=1.0)),
    ],
    ids=label,
)
def test_ends_of_the_radius(losses, weight, zero, whole, prior_law):
    mean = float((torch.from_numpy(prior_law(losses, weight)) * losses).sum())
    assert float(zero.worst_case(losses, weight=weight).value) == pytest.approx(mean, rel=1e-13)
    assert float(whole.worst_case(losses, weight=weight).value) == pytest.approx(float(losses.max()), rel=1e-13)


@pytest.mark.parametrize("ambiguity", ALL, ids=label)
def test_nan_losses_stay_visible(ambiguity):
    losses = torch.tensor([0.3, math.nan, 0.5])
    assert math.isnan(float(ambiguity.worst_case(losses, group=groups(losses)).value))


@pytest.mark.parametrize(
    ("ambiguity", "n", "key"),
    [
        (KLBall(radius=math.log(8)), 8, "radius"),
        (ChiSquareBall(radius=3.5), 8, "radius"),
        (TVBall(radius=0.875), 8, "radius"),
        (CVaR(alpha=0.125), 8, "alpha"),
    ],
    ids=label,
)
def test_degenerate_radii_are_refused_for_a_batch_size_and_answered(ambiguity, n, key):
    with pytest.raises(ValueError, match=rf"^{key}: "):
        ambiguity.check(n)
    ambiguity.check(n + 1)
    losses = torch.linspace(0, 1, n, dtype=torch.float64)
    assert float(ambiguity.worst_case(losses).value) == pytest.approx(1.0, abs=1e-12)
    assert ambiguity.worst_case(losses).ess == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("ambiguity", [Nominal(), KLBall(temperature=0.01), KLBall(radius=0.0), TVBall(radius=0.0)])
def test_harmless_settings_pass_the_check(ambiguity):
    for n in (1, 2, 64):
        ambiguity.check(n)


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: ChiSquareBall(radius=-0.1), "radius"),
        (lambda: CVaR(alpha=0.0), "alpha"),
        (lambda: CVaR(alpha=1.1), "alpha"),
        (lambda: TVBall(radius=1.1), "radius"),
        (lambda: GroupBall(form="best"), "form"),
        (lambda: GroupBall(step_size=0.0), "step_size"),
        (lambda: CVaR(alpha=0.5, memory=0), "memory"),
        (lambda: Nominal().worst_case(torch.zeros(0)), "losses"),
        (lambda: Nominal().worst_case(torch.zeros(2, 2)), "losses"),
        (lambda: Nominal().worst_case(torch.zeros(2), weight=torch.ones(3)), "weight"),
        (lambda: Nominal().worst_case(torch.zeros(2), weight=torch.tensor([1.0, -1.0])), "weight"),
        (lambda: Nominal().worst_case(torch.zeros(2), weight=torch.zeros(2)), "weight"),
        (lambda: GroupBall().worst_case(torch.zeros(2)), "group"),
        (lambda: GroupBall().worst_case(torch.zeros(2), group=torch.tensor([0, -1])), "group"),
        (lambda: Nominal().load_state_dict({"a": torch.zeros(1)}), "state"),
    ],
)
def test_bad_values_name_their_field(build, key):
    with pytest.raises(ValueError, match=rf"^{key}: "):
        build()


class TestGroups:
    losses = torch.tensor([1.0, 3.0, 0.5, 0.5, 2.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1, 1])  # means 2 and 1

    def test_exact_is_the_group_with_the_largest_mean(self):
        robust = GroupBall(form="exact").worst_case(self.losses, group=self.group)
        torch.testing.assert_close(robust.weights, torch.tensor([2.5, 2.5, 0, 0, 0], dtype=torch.float64))
        assert float(robust.value) == robust.dual == 2 and robust.divergence == pytest.approx(0.6)

    def test_exact_against_linear_programming(self):
        shares = cp.Variable(2, nonneg=True)
        problem = cp.Problem(cp.Maximize(shares @ np.array([2.0, 1.0])), [cp.sum(shares) == 1])
        problem.solve()
        ours = GroupBall(form="exact").worst_case(self.losses, group=self.group)
        assert float(ours.value) == pytest.approx(problem.value, abs=1e-7)

    def test_tied_groups_share_by_their_mass(self):
        robust = GroupBall(form="exact").worst_case(torch.ones(5), group=self.group)
        torch.testing.assert_close(robust.weights, torch.ones(5))

    def test_online_by_hand(self):
        """Shares 1/2, 1/2 times exp(step (2, 1)): logistic(step k) after k steps; each pair gets its share of 1/n_g."""
        ball = GroupBall(form="online", step_size=0.3)
        for k in (1, 2, 3):
            robust = ball.step(self.losses, group=self.group)
            share = 1 / (1 + math.exp(-0.3 * k))
            assert float(robust.value) == pytest.approx(2 * share + 1 * (1 - share), rel=1e-12)
            assert float(robust.weights[0]) == pytest.approx(5 * share / 2, rel=1e-12)

    def test_worst_case_moves_no_share(self):
        ball = GroupBall(form="online", step_size=0.3)
        first = ball.worst_case(self.losses, group=self.group)
        assert float(ball.worst_case(self.losses, group=self.group).value) == float(first.value) == 1.5

    def test_absent_groups_keep_their_place(self):
        ball = GroupBall(form="online", step_size=0.3)
        ball.step(self.losses, group=self.group)
        before = ball.state_dict()["log_shares"]
        ball.step(self.losses[:2] + 7, group=self.group[:2])
        torch.testing.assert_close(ball.state_dict()["log_shares"], before, rtol=0, atol=1e-15)
        ball.step(self.losses, group=torch.tensor([0, 0, 4, 4, 4]))
        assert len(ball.state_dict()["log_shares"]) == 5
        assert float(ball.state_dict()["log_shares"][1] - before[1]) == pytest.approx(0, abs=1e-15)

    def test_resumed_equals_uninterrupted(self):
        settings = {"form": "online", "step_size": 0.3}
        one, other = GroupBall(**settings), GroupBall(**settings)
        one.step(self.losses, group=self.group)
        other.load_state_dict(one.state_dict())
        for _ in range(2):
            expected = one.step(self.losses, group=self.group)
            assert float(other.step(self.losses, group=self.group).value) == float(expected.value)

    def test_many_steps_find_the_worst_group(self):
        ball = GroupBall(form="online", step_size=1.0)
        for _ in range(2000):
            robust = ball.step(self.losses, group=self.group)
        assert float(robust.value) == pytest.approx(2.0, abs=1e-12) and torch.isfinite(robust.weights).all()


class TestMemberships:
    losses = torch.tensor([1.0, 3.0, 0.5, 2.0], dtype=torch.float64)
    membership = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)

    def means(self, losses=None):
        m, values = self.membership.tolist(), (self.losses if losses is None else losses).tolist()
        return [sum(m[i][g] * values[i] for i in range(4)) / sum(m[i][g] for i in range(4)) for g in (0, 1)]

    def test_the_worst_group_by_a_plain_loop(self):
        robust = GroupBall(form="exact").worst_case(self.losses, group=self.membership)
        assert self.means()[1] > self.means()[0]
        assert float(robust.value) == pytest.approx(self.means()[1], rel=1e-12)
        assert robust.weights.tolist() == pytest.approx([0, 4 * 0.75 / 1.25, 4 * 0.5 / 1.25, 0])

    @pytest.mark.parametrize("form", ["exact", "online"])
    def test_one_hot_memberships_are_ids(self, form):
        ids = torch.tensor([0, 2, 2, 0])
        one, other = GroupBall(form=form, step_size=0.3), GroupBall(form=form, step_size=0.3)
        for _ in range(2):
            a = one.step(self.losses, group=ids)
            b = other.step(self.losses, group=torch.nn.functional.one_hot(ids).double())
            torch.testing.assert_close(a.weights, b.weights, rtol=0, atol=0)

    def test_a_pair_of_infinite_loss_outside_a_group_leaves_it_alone(self):
        losses = self.losses.clone()
        losses[3] = math.inf
        robust = GroupBall(form="exact", attainable=[0.0, 0.0]).worst_case(losses, group=self.membership)
        assert robust.weights.tolist() == pytest.approx([4 / 2.75, 4 * 0.25 / 2.75, 4 * 0.5 / 2.75, 4 / 2.75])

    def test_running_means_by_a_plain_loop(self):
        ball, seen = GroupBall(form="exact", memory=0.8), []
        for step in range(4):
            losses = self.losses + torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64) * step
            seen.append(losses)
            mass, total = [0.0, 0.0], [0.0, 0.0]
            for age, old in enumerate(reversed(seen)):
                for g in (0, 1):
                    share = float(self.membership[:, g].mean())
                    mass[g] += 0.8**age * share
                    total[g] += 0.8**age * share * self.means(old)[g]
            robust = ball.step(losses, group=self.membership)
            assert robust.dual == pytest.approx(max(total[g] / mass[g] for g in (0, 1)), rel=1e-12)

    def test_resumed_with_memory_equals_uninterrupted(self):
        settings = {"form": "online", "step_size": 0.3, "memory": 0.7}
        one, other = GroupBall(**settings), GroupBall(**settings)
        one.step(self.losses, group=self.membership)
        other.load_state_dict(one.state_dict())
        for _ in range(2):
            expected = one.step(self.losses * 2, group=self.membership)
            assert float(other.step(self.losses * 2, group=self.membership).value) == float(expected.value)

    def test_regret_takes_the_mass_from_a_hopeless_group(self):
        hopeless = [0.0, self.means()[1]]
        robust = GroupBall(form="exact", attainable=hopeless).worst_case(self.losses, group=self.membership)
        assert float(robust.value) == pytest.approx(self.means()[0], rel=1e-12)
        assert robust.dual == pytest.approx(self.means()[0], rel=1e-12), "the largest regret"

    def test_the_worst_regret_against_linear_programming(self):
        attainable, shares = np.array([0.4, 1.9]), cp.Variable(2, nonneg=True)
        problem = cp.Problem(cp.Maximize(shares @ (np.array(self.means()) - attainable)), [cp.sum(shares) == 1])
        problem.solve(solver=cp.CLARABEL)
        robust = GroupBall(form="exact", attainable=attainable.tolist()).worst_case(self.losses, group=self.membership)
        assert robust.dual == pytest.approx(problem.value, abs=1e-7)

    @pytest.mark.parametrize("rows", [[[0.5, 0.4]] * 4, [[1.5, -0.5]] * 4])
    def test_rows_that_are_no_memberships(self, rows):
        with pytest.raises(ValueError, match=r"^group: memberships"):
            GroupBall().worst_case(self.losses, group=torch.tensor(rows))

    def test_too_few_attainable_losses(self):
        with pytest.raises(ValueError, match=r"^attainable: has 1 values"):
            GroupBall(attainable=[0.1]).worst_case(self.losses, group=self.membership)


class TestOutputLayerBall:
    """sup of <G, E> over ||E|| <= radius is attained at radius G / ||G||."""

    def test_offset_is_the_convex_solvers(self):
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        ball = OutputLayerBall(radius=0.7)
        offset = cp.Variable(gradient.shape)
        problem = cp.Problem(cp.Maximize(cp.vdot(gradient.numpy(), offset)), [cp.norm(offset, "fro") <= 0.7])
        problem.solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(ball.offset(gradient).numpy(), offset.value, rtol=1e-5, atol=1e-6)
        assert float(ball.penalty(gradient)) == pytest.approx(problem.value, rel=1e-6)
        assert float((ball.offset(gradient) * gradient).sum()) == pytest.approx(
            float(ball.penalty(gradient)), rel=1e-12
        )

    def test_nothing_to_climb_moves_nothing(self):
        assert float(OutputLayerBall(radius=0.7).offset(torch.zeros(2, 2)).abs().max()) == 0


RADII = [10.0**e for e in (-300, -100, -33, -17, -16, -12, -8, -3, 0, 3, 17, 100, 300)]
LADDERS = {
    "chi_square": [ChiSquareBall(radius=r) for r in RADII],
    "kl radius": [KLBall(radius=r) for r in RADII],
    "kl temperature": [KLBall(temperature=1 / r) for r in RADII],
    "tv": [TVBall(radius=r) for r in RADII if r <= 1],
    "cvar": [CVaR(alpha=r) for r in reversed(RADII) if r <= 1],
}
SPREADS = {
    "unit": torch.linspace(-1, 1, 9, dtype=torch.float64),
    "1e-300": torch.linspace(0, 1e-300, 9, dtype=torch.float64),
    "1e300": torch.linspace(-1e300, 1e300, 9, dtype=torch.float64),
    "a rounding apart": 1 + torch.linspace(0, 2e-15, 9, dtype=torch.float64),
    "two clusters": torch.tensor([0.1, 0.1 + 1e-16, 0.5, 2e-200, 1e-200, 3e-200, 0.0], dtype=torch.float64),
    "the largest fp32": torch.linspace(-1, 1, 9) * torch.finfo(torch.float32).max,
    "all the largest fp32": torch.full((9,), torch.finfo(torch.float32).max),
    "fp16": torch.linspace(-1, 1, 9).half() * 65504,
    "bf16": torch.linspace(0.1, 3, 9).bfloat16(),
}


@pytest.mark.parametrize("prior", [None, 1e-300, 1e300], ids=["equal", "tiny", "huge"])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("name", LADDERS)
def test_the_worst_case_climbs_from_the_mean_to_the_largest(name: str, spread: str, prior: float | None):
    """From radii of 1e-300 to 1e300: laws are finite, and the value grows with the radius inside its bounds."""
    losses = SPREADS[spread]
    weight = None if prior is None else prior * torch.tensor([1.0, 2.0, 3.0] * 3, dtype=torch.float64)[: len(losses)]
    exact = losses.double()
    law = (
        torch.ones_like(exact) / len(exact)
        if weight is None
        else (weight / weight.max()) / (weight / weight.max()).sum()
    )
    span, precision = (
        float(exact.max() - exact.min()),
        torch.finfo(torch.promote_types(losses.dtype, torch.float32)).eps,
    )
    slack = 1e-9 * span + 4 * precision * float(exact.abs().max())
    before = float(exact[0] + (law * (exact - exact[0])).sum()) - slack
    for ambiguity in LADDERS[name]:
        robust = ambiguity.worst_case(losses, weight=weight)
        assert torch.isfinite(robust.weights).all() and math.isfinite(robust.divergence)
        assert float(robust.weights.double().mean()) == pytest.approx(1, rel=1e-6)
        assert before - slack <= float(robust.value) <= float(exact.max()) + slack
        before = float(robust.value)


@pytest.mark.parametrize(
    ("losses", "value"),
    [
        ([math.inf, -math.inf, 0.3, 0.5], math.inf),
        ([-math.inf, -math.inf, math.inf, 0.5], -math.inf),
        ([math.inf, -math.inf, 0.4, 0.6], 0.25),
    ],
    ids=["the radius decides", "the many decide", "nominal"],
)
def test_inf_beside_minus_inf_is_the_limit_of_l_beside_minus_l(losses, value):
    """As L -> inf: the value of the losses L and -L tends to inf times the net mass, or to what the finite ones say."""
    ambiguity = Nominal() if value != math.inf else KLBall(radius=0.1)
    found = ambiguity.worst_case(torch.tensor(losses, dtype=torch.float64))
    assert float(found.value) == pytest.approx(value)
    large = torch.tensor([math.copysign(1e12, x) if math.isinf(x) else x for x in losses], dtype=torch.float64)
    torch.testing.assert_close(found.weights, ambiguity.worst_case(large).weights, rtol=1e-6, atol=1e-9)


def test_low_precision_losses_are_summed_in_full():
    """1,000 bf16 losses: a running bf16 sum stops growing at 256."""
    losses = torch.full((1000,), 0.3).bfloat16()
    assert float(Nominal().worst_case(losses).value) == pytest.approx(float(losses[0]), rel=1e-6)
    assert Nominal().worst_case(losses).weights.dtype == torch.float32


@pytest.mark.parametrize(
    "ambiguity",
    [KLBall(radius=0.1), ChiSquareBall(radius=0.1), CVaR(alpha=0.25), TVBall(radius=0.3), GroupBall(form="exact")],
    ids=lambda s: s.name,
)
def test_a_spread_within_the_rounding_is_a_tie(ambiguity):
    """What rounding alone tells apart gets the nominal law; one rounding more, and the largest loss is favoured."""
    losses, off = 0.7 + 1e-7 * torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64), torch.full((4,), 1e-7)
    ids = torch.tensor([0, 0, 1, 1])
    tie = ambiguity.worst_case(losses, group=ids, rounding=off * (1 + 1e-6))
    torch.testing.assert_close(tie.weights, torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)
    assert float(tie.value) == pytest.approx(float(losses.mean()), rel=1e-12)
    for told_apart in (off / 2, None):
        assert float((ambiguity.worst_case(losses, group=ids, rounding=told_apart).weights - 1).abs().max()) > 0.05


def test_a_tie_leaves_no_shape_in_the_memory_of_a_stream():
    ball, losses = KLBall(radius=0.1, streaming=True), math.log(2) + 1e-7 * torch.rand(16, dtype=torch.float64)
    ball.step(losses, rounding=torch.full((16,), 1e-7))
    assert len(ball.state_dict()["shapes"]) == 0


def test_the_effective_size_does_not_know_how_weights_are_scaled():
    losses = torch.tensor([0.1, 0.4, 0.9, 2.0], dtype=torch.float64)
    undivided, divided = (KLBall(temperature=0.5, normalized=n).worst_case(losses) for n in (False, True))
    assert float(undivided.weights.mean()) != pytest.approx(1, rel=0.05)
    assert undivided.ess == pytest.approx(divided.ess)


def test_the_clamped_share_is_one_of_the_mass():
    losses, weight = torch.tensor([0.0, 0.0, 3.0]), torch.tensor([2.0, 7.0, 1.0])
    robust = KLBall(temperature=0.5, normalized=False, clamp=2.0).worst_case(losses, weight=weight)
    assert robust.clamped == pytest.approx(0.1)


def test_cvars_quantile_is_the_smallest_loss_that_keeps_mass():
    losses = torch.tensor([1.0, 4.0, 3.0, 2.0], dtype=torch.float64)
    assert CVaR(alpha=0.5).worst_case(losses).dual == 3.0
    assert CVaR(alpha=0.6).worst_case(losses).dual == 2.0
