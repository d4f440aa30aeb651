"""Losses against TRL's own code, numerical gradients, what defines each of them, and infinite margins."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from scipy import integrate, special
from torch import Tensor

from robustalign.objectives import (
    LOSSES,
    APODownLoss,
    APOZeroLoss,
    BetaDPOLoss,
    ChiPOLoss,
    ConservativeLoss,
    DPOProLoss,
    HingeLoss,
    HolderLoss,
    IPOLoss,
    MixedLogitLoss,
    PairTerms,
    SigmoidLoss,
    SimPOLoss,
    UnbiasedLoss,
    WPOLoss,
)

ALL = [
    SigmoidLoss(0.3),
    ConservativeLoss(0.3, 0.2),
    UnbiasedLoss(0.3, 0.2),
    IPOLoss(0.3, per_token=False),
    IPOLoss(0.3, per_token=True),
    HingeLoss(0.3),
    SimPOLoss(2.0, 0.3),
    ChiPOLoss(0.3, 5.0),
    APOZeroLoss(0.3),
    APODownLoss(0.3),
    HolderLoss(0.3, 2.0),
    MixedLogitLoss(0.3, 1.0),
    DPOProLoss(0.3, 0.1),
    WPOLoss(0.3),
    BetaDPOLoss(0.3, 0.6, 0.2, 0.9),
]


def make_terms(n: int = 12, dtype: torch.dtype = torch.float64) -> PairTerms:
    generator = torch.Generator().manual_seed(3)
    draw = lambda scale: scale * torch.randn(n, generator=generator, dtype=torch.float64)  # noqa: E731
    chosen, rejected = draw(1.5), draw(1.5)
    lengths = torch.randint(1, 9, (2, n), generator=generator)
    return PairTerms(
        margin=(chosen - rejected).to(dtype),
        chosen_logratio=chosen.to(dtype),
        rejected_logratio=rejected.to(dtype),
        chosen_logp=(chosen - 9).to(dtype),
        rejected_logp=(rejected - 11).to(dtype),
        chosen_length=lengths[0],
        rejected_length=lengths[1],
        soft_label=torch.linspace(0, 1, n).to(dtype),
        policy_weight=torch.linspace(0.1, 0.9, n).to(dtype),
    )


def test_all_losses_are_covered():
    assert {type(loss) for loss in ALL} == set(LOSSES.values())


def trl_loss(kind: str, terms: PairTerms, **settings) -> Tensor:
    """The mean loss by TRL's ``DPOTrainer._compute_loss``, from a model that returns our log-probabilities.

    Every completion is spelt as so many tokens, the log-probability on the first of them; the reference's are 0.
    """
    from trl import DPOTrainer

    lengths = torch.cat([terms.chosen_length, terms.rejected_length])
    logps = torch.cat([terms.chosen_logratio, terms.rejected_logratio])
    rows, width = len(lengths), int(lengths.max())
    mask = torch.cat([torch.zeros(rows, 1), torch.arange(width).expand(rows, width) < lengths[:, None]], 1).long()
    log_probs = torch.cat([logps[:, None], torch.zeros(rows, width - 1, dtype=logps.dtype)], 1)
    weights = torch.ones(rows) if terms.policy_weight is None else terms.policy_weight.repeat(2).sqrt()
    # exp(mean(log_probs - log_sum_sq)) is to be the weight: put what is missing on the first token
    first = log_probs[:, 0] - lengths * weights.log()
    outputs = SimpleNamespace(
        log_probs=log_probs,
        log_sum_sq_probs=torch.cat([first[:, None].detach(), torch.zeros(rows, width - 1, dtype=logps.dtype)], 1),
        entropy=torch.zeros(rows, width),
        mean_logits=torch.zeros(rows, width),
        is_top1=torch.zeros(rows, width, dtype=torch.bool),
    )
    accelerator = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0],
        label_smoothing=0.0, use_weighting=False, _metrics={"train": defaultdict(list)}, _total_train_tokens=0,
        _tp_size=1,
    )  # fmt: skip
    vars(trainer).update(settings)
    zeros = torch.zeros_like(terms.chosen_logratio)
    inputs = {
        "input_ids": mask,
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": zeros,
        "ref_rejected_logps": zeros,
    }
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)


def with_leaves(dtype: torch.dtype = torch.float64) -> tuple[PairTerms, Tensor, Tensor]:
    terms = make_terms(dtype=dtype)
    chosen = terms.chosen_logratio.clone().requires_grad_()
    rejected = terms.rejected_logratio.clone().requires_grad_()
    linked = PairTerms(
        margin=chosen - rejected,
        chosen_logratio=chosen,
        rejected_logratio=rejected,
        chosen_length=terms.chosen_length,
        rejected_length=terms.rejected_length,
        policy_weight=terms.policy_weight,
    )
    return linked, chosen, rejected


@pytest.mark.parametrize(
    ("loss", "kind", "settings"),
    [
        (SigmoidLoss(0.3), "sigmoid", {}),
        (UnbiasedLoss(0.3, 0.2), "robust", {"label_smoothing": 0.2}),
        (IPOLoss(0.3, per_token=True), "ipo", {}),
        (HingeLoss(0.3), "hinge", {}),
        (APOZeroLoss(0.3), "apo_zero", {}),
        (APODownLoss(0.3), "apo_down", {}),
        (WPOLoss(0.3), "sigmoid", {"use_weighting": True}),
    ],
)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_value_and_gradients_are_trls(loss, kind, settings, dtype, rtol):
    terms, chosen, rejected = with_leaves(dtype)
    ours = loss.losses(terms).mean()
    theirs = trl_loss(kind, terms, beta=0.3, **settings)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=0)
    expected = torch.autograd.grad(theirs, [chosen, rejected])
    for mine, other in zip(torch.autograd.grad(ours, [chosen, rejected]), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=1e-3 * rtol)


def test_conservative_is_trls_smoothed_sigmoid_of_equal_pairs():
    """TRL keeps label smoothing in its ``aot`` loss, which sorts the margins: with one pair, cDPO's formula."""
    terms = make_terms(1)
    ours = ConservativeLoss(0.3, 0.2).losses(terms.margin).mean()
    torch.testing.assert_close(ours, trl_loss("aot", terms, beta=0.3, label_smoothing=0.2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_gradient_against_finite_differences(loss):
    terms = make_terms()
    columns = {"margin", *loss.needs} - {"chosen_length", "rejected_length", "soft_label", "policy_weight"}
    if not loss.name.startswith(("ipo", "simpo", "chi", "apo")) or loss == IPOLoss(0.3, per_token=False):
        columns = {"margin"}
    else:
        columns -= {"margin"}
    for name in columns:
        leaf = getattr(terms, name).clone().requires_grad_()
        at = lambda x: loss.losses(PairTerms(**{**vars(terms), name: x}))  # noqa: B023, E731
        (gradient,) = torch.autograd.grad(at(leaf).sum(), leaf)
        slopes = (at(leaf.detach() + 1e-5) - at(leaf.detach() - 1e-5)) / 2e-5
        torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-9)
        assert gradient.any()


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_dtype_and_shape_are_kept(loss):
    for dtype in (torch.float32, torch.float64):
        losses = loss.losses(make_terms(dtype=dtype))
        assert losses.dtype == dtype and losses.shape == (12,)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_bare_margin_or_a_named_missing_column(loss):
    margin = make_terms().margin
    if loss.needs:
        with pytest.raises(ValueError, match=rf"^terms: .*{sorted(loss.needs)[0]}"):
            loss.losses(margin)
    else:
        torch.testing.assert_close(loss.losses(margin), loss.losses(PairTerms(margin)), rtol=0, atol=0)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_infinite_margins_give_no_nan(loss):
    inf = torch.tensor([math.inf, -math.inf, 0.0])
    flat = torch.tensor([-math.inf, math.inf, 0.0])
    half = torch.full((3,), 0.5)
    columns = {
        "margin": inf.clone().requires_grad_(),
        "chosen_logratio": (inf / 2).requires_grad_(),
        "rejected_logratio": (flat / 2).requires_grad_(),
    }
    ones = torch.ones(3, dtype=torch.int64)
    logp = {"chosen_logp": torch.tensor([0.0, -math.inf, -1.0]), "rejected_logp": torch.tensor([-math.inf, 0.0, -1.0])}
    terms = PairTerms(**columns, **logp, chosen_length=ones, rejected_length=ones, soft_label=half, policy_weight=half)
    losses = loss.losses(terms)
    assert not torch.isnan(losses).any()
    if losses.requires_grad and loss.name != "ipo":  # a square has no finite slope at infinity
        losses.sum().backward()
        assert all(leaf.grad is None or not leaf.grad.isnan().any() for leaf in columns.values())


def test_dpo_at_the_reference_is_log_two():
    torch.testing.assert_close(SigmoidLoss(0.1).losses(torch.zeros(3)), torch.full((3,), math.log(2)))


def test_conservative_is_smallest_at_the_smoothed_label():
    beta, rate = 0.5, 0.2
    optimum = torch.tensor([math.log((1 - rate) / rate) / beta], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ConservativeLoss(beta, rate).losses(optimum).sum(), optimum)
    assert float(slope) == pytest.approx(0, abs=1e-15)


def test_unbiased_averages_to_the_loss_of_the_true_label():
    margin, rate = make_terms().margin, 0.3
    loss = UnbiasedLoss(0.5, rate)
    expected = (1 - rate) * loss.losses(margin) + rate * loss.losses(-margin)
    torch.testing.assert_close(expected, SigmoidLoss(0.5).losses(margin), rtol=1e-12, atol=0)


@pytest.mark.parametrize("build", [ConservativeLoss, UnbiasedLoss])
def test_no_flips_is_dpo(build):
    margin = make_terms().margin
    torch.testing.assert_close(build(0.3, 0.0).losses(margin), SigmoidLoss(0.3).losses(margin), rtol=0, atol=0)


def test_ipo_summed_and_per_token_differ_by_the_lengths():
    terms = make_terms()
    unit = torch.ones_like(terms.chosen_length)
    same = PairTerms(**{**vars(terms), "chosen_length": unit, "rejected_length": unit})
    per_token, summed = IPOLoss(0.3, per_token=True), IPOLoss(0.3, per_token=False)
    torch.testing.assert_close(per_token.losses(same), summed.losses(terms.margin), rtol=1e-12, atol=0)
    assert not torch.allclose(per_token.losses(terms), summed.losses(terms))
    assert not summed.needs and "chosen_length" in per_token.needs
    aim = torch.tensor([1 / 0.6])
    assert float(summed.losses(aim)) == pytest.approx(0, abs=1e-12)


def test_simpo_by_hand():
    """(-6 / 3) - (-10 / 2) = 3 nats a token, beta 2, gamma = 0.5 * 2: -log sigmoid(6 - 1)."""
    terms = PairTerms(
        margin=torch.zeros(1),
        chosen_logp=torch.tensor([-6.0]),
        rejected_logp=torch.tensor([-10.0]),
        chosen_length=torch.tensor([3]),
        rejected_length=torch.tensor([2]),
    )
    assert float(SimPOLoss(2.0, 0.5).losses(terms)) == pytest.approx(math.log1p(math.exp(-5)), rel=1e-5)


def test_chi_po_by_hand():
    """Ratios 2 and 1/2: phi = 2 + ln 2 and 1/2 - ln 2, so the gap is 1.5 + 2 ln 2; R = 1 clips it at 2."""
    terms = PairTerms(
        torch.zeros(1), torch.tensor([math.log(2)], dtype=torch.float64), torch.tensor([-math.log(2)]).double()
    )
    gap = 1.5 + 2 * math.log(2)
    assert float(ChiPOLoss(0.5, 10.0).losses(terms)) == pytest.approx(math.log1p(math.exp(-gap / 2)), rel=1e-7)
    assert float(ChiPOLoss(1.0, 1.0).losses(terms)) == pytest.approx(math.log1p(math.exp(-2)), rel=1e-7)


def test_chi_po_survives_large_log_ratios():
    big = torch.tensor([200.0, -200.0, 200.0])
    losses = ChiPOLoss(0.1, 3.0).losses(PairTerms(torch.zeros(3), big, big.flip(0).roll(1)))
    assert torch.isfinite(losses).all()


def test_holder_redescends_and_has_the_stated_slope():
    beta, gamma = 0.7, 2.0
    margin = torch.linspace(-30, 10, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(HolderLoss(beta, gamma).losses(margin).sum(), margin)
    p = (beta * margin.detach()).sigmoid()
    torch.testing.assert_close(slope, -gamma * (1 + gamma) * beta * p**gamma * (1 - p) ** 2, rtol=1e-9, atol=1e-15)
    assert abs(slope[0]) < 1e-10 and abs(slope).argmax() > 20


class TestMixedLogit:
    margin = torch.tensor([-60.0, -8.0, -1.0, 0.0, 1.0, 8.0, 60.0], dtype=torch.float64)

    @pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
    def test_it_is_the_integral(self, spread):
        def choice(h: float) -> float:
            def density(z: float) -> float:
                strength = 0.3 * math.exp(spread * z - spread**2 / 2)
                return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * float(special.expit(strength * h))

            return integrate.quad(density, -12, 12, limit=1000, epsabs=0, epsrel=1e-12)[0]

        expected = torch.tensor([-math.log(choice(h)) for h in self.margin.tolist()], dtype=torch.float64)
        torch.testing.assert_close(MixedLogitLoss(0.3, spread).losses(self.margin), expected, rtol=1e-9, atol=1e-12)

    def test_no_spread_is_dpo(self):
        torch.testing.assert_close(
            MixedLogitLoss(0.3, 0.0).losses(self.margin), SigmoidLoss(0.3).losses(self.margin), rtol=1e-12, atol=1e-15
        )

    def test_the_slope_is_that_of_dpo_at_the_reference_and_flatter_where_a_pair_is_contradicted(self):
        margin = torch.tensor([0.0, -8.0], dtype=torch.float64, requires_grad=True)
        ours, dpo = (
            torch.autograd.grad(loss.losses(margin).sum(), margin)[0]
            for loss in (MixedLogitLoss(0.3, 1.0), SigmoidLoss(0.3))
        )
        assert float(ours[0]) == pytest.approx(-0.15, abs=1e-12) and abs(ours[1]) < 0.5 * abs(dpo[1])


class TestDPOPro:
    def test_label_ball_by_grid_search(self):
        terms = make_terms()
        beta, radius = 0.3, 0.15
        q, logits = terms.soft_label, beta * terms.margin
        grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)[:, None]
        inside = (grid - q) ** 2 <= radius * q * (1 - q) * (1 + 1e-12)
        inside |= grid == (q * 200_000).round() / 200_000  # q itself where the ball is a point
        loss = -grid * torch.nn.functional.logsigmoid(logits) - (1 - grid) * torch.nn.functional.logsigmoid(-logits)
        worst = loss.masked_fill(~inside, -math.inf).max(0).values
        torch.testing.assert_close(DPOProLoss(beta, radius).losses(terms), worst, rtol=0, atol=2e-5)

    def test_certain_labels_are_dpo(self):
        margin = make_terms().margin
        terms = PairTerms(margin, soft_label=torch.ones_like(margin))
        torch.testing.assert_close(DPOProLoss(0.3, 5.0).losses(terms), SigmoidLoss(0.3).losses(margin), rtol=0, atol=0)

    def test_no_radius_is_cross_entropy(self):
        margin = make_terms().margin
        terms = PairTerms(margin, soft_label=torch.full_like(margin, 0.8))
        expected = ConservativeLoss(0.3, 0.2).losses(margin)
        torch.testing.assert_close(DPOProLoss(0.3, 0.0).losses(terms), expected, rtol=1e-12, atol=0)

    @pytest.mark.parametrize(("label", "worst"), [(0.9, 0.9 - 0.3 * 0.3), (0.55, 0.5), (0.1, 0.1 + 0.3 * 0.3)])
    def test_slope_at_the_reference_is_the_smallest_subgradient(self, label, worst):
        margin = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        terms = PairTerms(margin, soft_label=torch.full((1,), label, dtype=torch.float64))
        (slope,) = torch.autograd.grad(DPOProLoss(0.4, 0.09).losses(terms).sum(), margin)
        assert float(slope) == pytest.approx(0.4 * (0.5 - worst), abs=1e-15)


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: SigmoidLoss(0.0), "beta"),
        (lambda: SigmoidLoss(math.nan), "beta"),
        (lambda: ConservativeLoss(0.1, 0.5), "flip_rate"),
        (lambda: UnbiasedLoss(0.1, -0.1), "flip_rate"),
        (lambda: IPOLoss(-1.0, True), "beta"),
        (lambda: SimPOLoss(2.0, -1.0), "gamma_beta_ratio"),
        (lambda: ChiPOLoss(0.1, 0.0), "reward_bound"),
        (lambda: HolderLoss(0.1, 0.0), "gamma"),
        (lambda: MixedLogitLoss(0.1, 2.1), "spread"),
        (lambda: DPOProLoss(0.1, -1.0), "label_radius"),
        (lambda: PairTerms(torch.zeros(2), weight=torch.zeros(3)), "weight"),
    ],
)
def test_bad_values_name_their_field(build, key):
    with pytest.raises(ValueError, match=rf"^{key}: "):
        build()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chi_po_does_not_saturate(dtype):
    """Ratios of e^60 against e^50: the gap is beyond any clip, not that of two saturated ratios; 0 and 1 as written."""
    chosen = torch.tensor([60.0, 50.0, 60.0, 0.0, 1e-6], dtype=dtype, requires_grad=True)
    rejected = torch.tensor([50.0, 60.0, 60.0, 0.0, 0.0], dtype=dtype, requires_grad=True)
    losses = ChiPOLoss(0.1, 5.0).losses(PairTerms(chosen - rejected, chosen, rejected))
    by_hand = [math.log1p(math.exp(-10)), math.log1p(math.exp(10)), math.log(2), math.log(2)]
    assert losses[:4].tolist() == pytest.approx(by_hand, rel=1e-6)
    gradient, other = torch.autograd.grad(losses.sum(), (chosen, rejected))
    assert gradient[[0, 1]].tolist() == [0.0, 0.0], "beyond the clip"
    assert float(gradient[3]) == pytest.approx(-0.1 * 2 / 2) == pytest.approx(-float(other[3]))  # -beta phi'(0) / 2
    assert float(gradient[4]) == pytest.approx(-0.1, rel=1e-5)


def test_a_margin_within_its_rounding_has_no_sign():
    """DPO-PRO's label does not turn on what rounding alone decides."""
    margin, off = torch.tensor([1e-6, -1e-6, 1e-5, -1e-5]), torch.full((4,), 2e-6)
    terms = PairTerms(margin.requires_grad_(), soft_label=torch.full((4,), 0.8), margin_rounding=off)
    (slope,) = torch.autograd.grad(DPOProLoss(0.4, 0.1).losses(terms).sum(), margin)
    reach = math.sqrt(0.1 * 0.8 * 0.2)
    labels = [0.8 - reach, 0.8 - reach, 0.8 - reach, 0.8 + reach]
    assert slope.tolist() == pytest.approx([0.4 * (0.5 - p) for p in labels], rel=1e-4)
