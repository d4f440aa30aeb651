"""beta-DPO against its formulas worked out by hand, its draw against the law it comes from, and resuming."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from robustalign.objectives import BetaDPOLoss, SigmoidLoss
from robustalign.objectives.losses.beta_dpo import uniform

MARGIN = torch.tensor([0.5, -1.0, 2.0, 0.1, 0.7, 8.0], dtype=torch.float64)
ROW = torch.tensor([4, 7, 1, 9, 30, 2])


def loss(**changes) -> BetaDPOLoss:
    return BetaDPOLoss(**({"beta": 0.1, "scaling": 0.6, "filtered": 0.2, "momentum": 0.9} | changes))


def test_beta_by_hand():
    """m starts at 0, so after one batch of mean h it is h / 10: beta (1 + a (mean of the kept - m))."""
    adapted = loss(filtered=0.0).adapt(MARGIN, ROW)
    mean = float(MARGIN.mean())
    assert adapted.weight.tolist() == [1.0] * 6
    assert isinstance(adapted.loss, SigmoidLoss)
    assert adapted.loss.beta == pytest.approx(0.1 * (1 + 0.6 * (mean - 0.1 * mean)))
    assert adapted.diagnostics == {"beta": adapted.loss.beta, "kept": 6}


def test_running_mean_and_spread_by_hand():
    ours, mean, spread = loss(filtered=0.0, scaling=0.0), 0.0, 0.0
    for shift in (0.0, 1.0, -2.0):
        values = MARGIN + shift
        ours.adapt(values, ROW)
        mean, spread = 0.9 * mean + 0.1 * float(values.mean()), 0.9 * spread + 0.1 * float(values.std(correction=0))
    assert ours.state_dict()["running"].tolist() == pytest.approx([mean, spread, 3])


def test_beta_of_the_kept_pairs_and_never_below_its_floor():
    ours = loss()
    adapted = ours.adapt(MARGIN, ROW)
    kept = adapted.weight > 0
    assert int(kept.sum()) == 4 == adapted.diagnostics["kept"]
    mean = 0.1 * float(MARGIN.mean())
    assert adapted.diagnostics["beta"] == pytest.approx(0.1 * (1 + 0.6 * (float(MARGIN[kept].mean()) - mean)))
    assert loss(filtered=0.0).adapt(MARGIN - 50, ROW).diagnostics["beta"] == 1e-3


def test_pairs_of_no_weight_play_no_part():
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    inside = weight > 0
    whole, part = loss(), loss()
    found = whole.adapt(MARGIN, ROW, weight)
    alone = part.adapt(MARGIN[inside], ROW[inside], weight[inside])
    assert found.weight[~inside].tolist() == [0.0, 0.0]
    torch.testing.assert_close(found.weight[inside], alone.weight)
    assert found.diagnostics == pytest.approx(alone.diagnostics)
    torch.testing.assert_close(whole.state_dict(), part.state_dict())


def test_the_draw_follows_the_pair_not_its_place():
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    plain, shuffled = loss(filtered=0.5), loss(filtered=0.5)
    for _ in range(4):
        expected = plain.adapt(MARGIN, ROW).weight[order]
        assert shuffled.adapt(MARGIN[order], ROW[order]).weight.tolist() == expected.tolist()


def test_the_draw_is_without_replacement_in_proportion_to_the_gaussian():
    """Frequency of each kept pair of three, against the sequential draw's exact probabilities."""
    margin = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    ours = loss(filtered=0.33, momentum=0.0)  # two of three stay; mean and spread are this batch's
    z = (margin - margin.mean()) / margin.std(correction=0)
    law = torch.exp(-z.square() / 2)
    expected = dict.fromkeys(itertools.combinations(range(3), 2), 0.0)
    for first, second in itertools.permutations(range(3), 2):
        rest = float(law.sum() - law[first])
        expected[tuple(sorted((first, second)))] += float(law[first] / law.sum()) * float(law[second]) / rest
    draws, seen = 4000, dict.fromkeys(expected, 0)
    for number in range(draws):
        kept = ours.adapt(margin, torch.arange(3) + 3 * number).weight.nonzero()[:, 0].tolist()
        seen[tuple(kept)] += 1
    for pair, share in expected.items():
        assert seen[pair] / draws == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / draws))


def test_equal_margins_are_drawn_evenly_and_leave_beta_alone():
    """A policy that has not left its reference: no spread to measure distances in."""
    adapted = loss().adapt(torch.zeros(10), torch.arange(10))
    assert adapted.diagnostics == {"beta": 0.1, "kept": 8}


def test_resumed_equals_uninterrupted():
    whole, before = loss(filtered=0.5), loss(filtered=0.5)
    for ours in (whole, before):
        ours.adapt(MARGIN, ROW)
    after = loss(filtered=0.5)
    after.load_state_dict(before.state_dict())
    one, other = whole.adapt(MARGIN + 1, ROW), after.adapt(MARGIN + 1, ROW)
    assert one.weight.tolist() == other.weight.tolist() and one.loss == other.loss


def test_numbers_of_a_key_are_splitmix64s():
    """The generator's published first outputs for the seed 0, as fractions of 2^64."""
    outputs = (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F)
    for stream, output in enumerate(outputs, start=1):
        assert float(uniform(torch.tensor([0]), stream)[0]) == pytest.approx(output / 2**64, abs=2**-52)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"beta": 0.0}, "beta"),
        ({"scaling": -1.0}, "scaling"),
        ({"filtered": 1.0}, "filtered"),
        ({"momentum": 1.0}, "momentum"),
    ],
)
def test_bad_values_name_their_field(changes, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        loss(**changes)


def test_equal_margins_have_no_spread_and_are_drawn_by_the_number_of_the_pair():
    """A common margin that is no binary fraction must not leave a rounding for a spread."""
    equal = torch.full((6,), 0.1, dtype=torch.float64)
    ours = loss(filtered=0.5)
    kept = ours.adapt(equal, ROW).weight
    assert ours.state_dict()["running"][1] == 0
    assert torch.equal(kept, loss(filtered=0.5).adapt(torch.zeros(6, dtype=torch.float64), ROW).weight)
    order = [5, 3, 0, 1, 4, 2]
    assert torch.equal(loss(filtered=0.5).adapt(equal, ROW[order]).weight, kept[order])
