"""Certificates as mathematics: closed forms, coverage, and what no target can exceed."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from robustalign.config import ShiftConfig
from robustalign.evaluation.certificates import (
    BALLS,
    certificate,
    certificate_table,
    control_losses,
    divergences,
    held_out_certificates,
    target_table,
)
from robustalign.evaluation.wasserstein import wasserstein_bracket
from robustalign.policies.logprobs import Rows, sequence_logps
from robustalign.shifts import Pairs, ScorerShift, Standards
from tests.conftest import tiny_gpt2

RNG = np.random.default_rng(3)
LOSSES = control_losses(RNG.normal(3, 10, 120), beta=0.1)


def test_controls_are_the_policy_shrunk() -> None:
    margins = np.array([-20.0, 0.0, 15.0])
    losses = control_losses(margins, beta=0.1, shrinkage=(0.25,))
    assert list(losses) == ["policy", "reference", "shrink_0.25"]
    for control, factor in (("policy", 1), ("reference", 0), ("shrink_0.25", 0.25)):
        assert losses[control] == pytest.approx([math.log1p(math.exp(-0.1 * factor * m)) for m in margins], rel=1e-12)


def test_closed_forms_on_two_values() -> None:
    """Losses 0 (share 3/4) and 1 (share 1/4): every worst law puts p on the 1, and p follows from the radius."""
    losses = np.repeat([0.0, 1.0], [30, 10])
    assert certificate(losses, "tv", 0.2) == pytest.approx(0.25 + 0.2)
    assert certificate(losses, "cvar", 2.0) == pytest.approx(0.5)
    assert certificate(losses, "chi_square", 0.1) == pytest.approx(0.25 + math.sqrt(2 * 0.1 * 0.25 * 0.75))
    p = 0.6
    radius = p * math.log(p / 0.25) + (1 - p) * math.log((1 - p) / 0.75)
    assert certificate(losses, "kl", radius) == pytest.approx(p, rel=1e-9)
    assert math.isnan(certificate(losses, "kl", math.inf))


def test_weights_are_the_nominal_law() -> None:
    values, counts = np.array([0.1, 0.5, 2.0, 3.0]), np.array([5, 3, 1, 1])
    for name, radius in (("kl", 0.3), ("chi_square", 0.3), ("tv", 0.1), ("cvar", 2.0)):
        repeated = certificate(np.repeat(values, counts), name, radius)
        assert certificate(values, name, radius, weight=counts) == pytest.approx(repeated, rel=1e-9)


@pytest.mark.parametrize("name", BALLS)
def test_no_reweighting_exceeds_its_certificate(name: str) -> None:
    """A random law's loss is at most the certificate at its own divergence; the worst law's equals it."""
    values, nominal = LOSSES["policy"], RNG.uniform(0.5, 2, 120)
    for _ in range(20):
        law = nominal * np.exp(RNG.normal(0, 1, 120) + RNG.normal() * values)
        realised = float(np.average(values, weights=law))
        assert realised <= certificate(values, name, divergences(law, nominal)[name], nominal) + 1e-10
    tilted = nominal * np.exp(values / 0.7)
    if name == "kl":
        found = certificate(values, name, divergences(tilted, nominal)[name], nominal)
        assert found == pytest.approx(float(np.average(values, weights=tilted)), rel=1e-9)


def test_divergences_by_hand() -> None:
    found = divergences(np.array([3.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0]))
    assert found["kl"] == pytest.approx(0.75 * math.log(3))
    assert found["chi_square"] == pytest.approx((0.25 * 4 + 0 + 0.5) / 2)
    assert found["cvar"] == pytest.approx(3.0)
    assert found["tv"] == pytest.approx(0.5)
    outside = divergences(np.array([1.0, 1.0]), np.array([1.0, 0.0]))
    assert [outside[name] for name in ("kl", "chi_square", "cvar", "tv")] == [math.inf] * 3 + [0.5]


def test_table_is_tidy_and_its_curves_grow() -> None:
    table = certificate_table(LOSSES, np.arange(120), draws=10)
    assert not table.duplicated(["control", "set", "radius"]).any()
    for (control, _), curve in table.groupby(["control", "set"]):
        value = curve.sort_values("radius")["value"].to_numpy()
        assert (np.diff(value) >= -1e-12).all() and (curve["low"] <= curve["value"]).all()
        if control == "reference":
            assert value == pytest.approx([math.log(2)] * len(value), rel=1e-12)
            assert (curve["low"] == curve["high"]).all(), "ln 2 under every law is known exactly"
        else:
            assert (np.diff(value) > 0).all() and (curve["low"] < curve["high"]).all()


def test_interval_covers() -> None:
    """The worst tenth of an exponential law is 1 + ln 10. Of 60 samples of 400 the 90 % interval covers it as often as
    a binomial law with p = 0.9 would, down to 4 deviations, and is as wide as the limit law says."""
    truth, hits, width = 1 + math.log(10), 0, []
    rng = np.random.default_rng(1)
    for _ in range(60):
        values = rng.exponential(size=400)
        table = certificate_table({"policy": values}, np.arange(400), radii={"cvar": (10.0,)}, draws=40, confidence=0.9)
        hits += bool(table["low"][0] <= truth <= table["high"][0])
        width.append(table["high"][0] - table["low"][0])
    assert 60 * 0.9 - 4 * math.sqrt(60 * 0.09) <= hits
    # n times the variance: Var(excess over the quantile) / a^2 = (2 a - a^2) / a^2, as the excess is Exp(1) w. p. a
    exact = 2 * 1.6449 * math.sqrt((1 + 0.9) / (0.1 * 400))
    assert np.mean(width) == pytest.approx(exact, rel=0.12)


def test_every_pair_of_a_prompt_is_resampled_together() -> None:
    values = np.random.default_rng(0).exponential(size=100)
    radii = {"kl": (0.1,)}
    alone = certificate_table({"p": np.repeat(values, 4)}, np.arange(400), radii=radii, draws=200)
    together = certificate_table({"p": np.repeat(values, 4)}, np.repeat(np.arange(100), 4), radii=radii, draws=200)
    ratio = (together["high"] - together["low"]) / (alone["high"] - alone["low"])
    assert ratio[0] == pytest.approx(2.0, rel=0.25), "four copies of a loss are worth one observation"


def population(nominal: list[float], **targets: list[float]) -> ScorerShift:
    config = ShiftConfig(
        name="x", objectives=["a", "b"], nominal=nominal, targets=targets, combine="population", visible="false"
    )
    return ScorerShift(config, Standards({name: np.array([0.0, 1.0]) for name in "ab"}))


def test_held_out_targets_lie_in_their_balls() -> None:
    """90 % a, 10 % b; the target of b alone has KL ln 10, all of whose loss the certificate at ln 10 covers."""
    shift = population([0.9, 0.1], half=[0.5, 0.5], swapped=[0.0, 1.0])
    size = (40, 25)
    pairs = [
        Pairs(*(np.arange(n), np.zeros(n, int), np.ones(n, int)), np.ones(n), np.full(n, i), {})
        for i, n in enumerate(size)
    ]
    ratios = np.stack([RNG.normal(2, 10, 40), RNG.normal(-2, 10, 40)], 1)
    table = held_out_certificates(pairs, shift, ratios, beta=0.1, draws=5)
    assert set(table["target"]) == {"", "half", "swapped"} and set(table["n"]) == {65}
    found = table[table["target"] != ""]
    assert (found["realised"] <= found["value"] + 1e-10).all()
    row = found[(found["target"] == "swapped") & (found["control"] == "policy")].set_index("set")
    margins = ratios[:25, 0] - ratios[:25, 1]
    assert row["realised"]["kl"] == pytest.approx(np.log1p(np.exp(-0.1 * margins)).mean(), rel=1e-12)
    assert row["radius"]["kl"] == pytest.approx(math.log(10)) and row["radius"]["tv"] == pytest.approx(0.9)
    unseen = held_out_certificates(pairs, population([1.0, 0.0], b=[0.0, 1.0]), ratios, beta=0.1, draws=2)
    beyond = unseen[(unseen["target"] == "b") & (unseen["set"] == "kl")]
    assert np.isinf(beyond["radius"]).all() and beyond["value"].isna().all() and beyond["realised"].notna().all()


def test_target_equal_to_nominal_has_radius_zero() -> None:
    table = target_table(LOSSES, np.ones(120), {"same": np.full(120, 7.0)})
    assert table[table["set"] != "cvar"]["radius"].abs().max() < 1e-12
    assert table["value"].to_numpy() == pytest.approx(table["realised"].to_numpy(), rel=1e-6)


@pytest.mark.parametrize("prompt", ["joint", "per_sequence"])
def test_wasserstein_bracket(prompt: str) -> None:
    """To first order both ends agree; the lower end is attained by a law in the ball; random moves do no better."""
    model = tiny_gpt2(torch.float64).requires_grad_(False)
    ids = lambda n: RNG.integers(3, 97, n).tolist()  # noqa: E731
    prompts = [ids(3), ids(5), ids(2), ids(4)]
    rows = Rows.collate(prompts * 2, [ids(4) for _ in range(8)], pad=0)
    reference = sequence_logps(model, rows) + torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    radii = (0.0, 1e-4, 1e-2, 0.1)
    table = wasserstein_bracket(model, rows, reference, beta=0.3, radii=radii, prompt=prompt).set_index("radius")
    assert table["low"][0.0] == table["nominal"][0.0] == table["first_order"][0.0]
    assert (np.diff(table["low"]) > 0).all() and (table["low"] >= table["nominal"]).all()
    rise, predicted = table["low"] - table["nominal"], table["first_order"] - table["nominal"]
    assert rise[1e-4] == pytest.approx(predicted[1e-4], rel=1e-3)
    errors = (rise - predicted).abs() / predicted
    assert errors[1e-4] < errors[1e-2] < errors[0.1], "the bracket opens with the radius"


def test_empty_nominal_population_gives_an_empty_table() -> None:
    empty = Pairs(*(np.zeros(0, int) for _ in range(3)), np.zeros(0), np.zeros(0, int), {})
    one = Pairs(np.zeros(1, int), np.zeros(1, int), np.ones(1, int), np.ones(1), np.ones(1, int), {})
    found = held_out_certificates([empty, one], population([1.0, 0.0], b=[0.0, 1.0]), np.zeros((1, 2)), beta=0.1)
    assert isinstance(found, pd.DataFrame) and found.empty
