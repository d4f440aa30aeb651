"""Agreement, calibration and the worst tenth against plain loops and simulations whose truth is known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from robustalign.evaluation import people
from robustalign.evaluation.people import BINS, Votes

RNG = np.random.default_rng(0)
HALF, ALL = np.array([0.5, 0.5]), np.array([1.0, 0.0])
SHIFT = SimpleNamespace(
    components=("a", "b"), names=("all",), shares=lambda target=None: HALF if target is None else ALL
)


def votes(n: int, **columns) -> Votes:
    values = {
        "share": RNG.choice([0.5, 0.8, 1.0], n),
        "weight": RNG.integers(1, 4, n).astype(float),
        "member": RNG.integers(0, 2, n),
        "item": np.arange(n),
        "first_share": RNG.choice([0.0, 0.5, 1.0], n),
        "person": np.full(n, ""),
        "unit": np.arange(n),
    }
    return Votes(**(values | columns))


def test_the_calibration_error_is_that_of_a_loop_over_votes() -> None:
    n, beta = 200, 0.5
    given, margin = votes(n), RNG.normal(0, 3, n)
    margin[:5] = 0
    found = people.reliability(margin, beta, given, 2, np.ones((1, n)))
    for shares in (HALF, ALL):
        total = 0.0
        mass = [given.weight[given.member == c].sum() for c in (0, 1)]
        for b in range(BINS):
            gap = 0.0
            for i in range(n):
                p = 1 / (1 + np.exp(-beta * margin[i]))
                confidence = max(p, 1 - p)
                agreed = given.share[i] if margin[i] > 0 else 1 - given.share[i] if margin[i] < 0 else 0.5
                if 0.5 + b / (2 * BINS) <= confidence < 0.5 + (b + 1) / (2 * BINS):
                    gap += shares[given.member[i]] * given.weight[i] / mass[given.member[i]] * (confidence - agreed)
            total += abs(gap)
        assert found.error(shares) == pytest.approx([total])


def test_which_reply_is_called_chosen_plays_no_part_in_calibration() -> None:
    n = 100
    given, margin = votes(n), RNG.normal(size=n)
    turned = votes(n, share=1 - given.share, weight=given.weight, member=given.member)
    one, other = (people.reliability(m, 1.0, v, 2, np.ones((1, n))) for m, v in ((margin, given), (-margin, turned)))
    assert one.error(HALF) == pytest.approx(other.error(HALF))
    assert one.agreed == pytest.approx(other.agreed)


def test_a_policy_that_knows_the_vote_shares_is_calibrated_and_a_bold_one_is_not() -> None:
    n, h = 4000, RNG.normal(0, 2, 4000)
    share = (RNG.random(n) < 1 / (1 + np.exp(-h))).astype(float)
    given = votes(n, share=share, weight=np.ones(n))
    often = np.ones((1, n))
    assert people.reliability(h, 1.0, given, 2, often).error(HALF)[0] < 0.03
    bold = people.reliability(h, 3.0, given, 2, often)
    assert bold.error(HALF)[0] > 0.08
    table = people.reliability_table(bold, SHIFT, 0.95)
    nominal = table[table["target"] == "nominal"]
    assert nominal["share"].sum() == pytest.approx(1)
    gap = (nominal["share"] * (nominal["confidence"] - nominal["agreement"]).abs()).sum()
    assert gap == pytest.approx(bold.error(HALF)[0])


def test_resampling_a_unit_twice_is_having_its_rows_twice() -> None:
    n = 30
    given, margin = votes(n, unit=np.arange(n) // 3, item=np.arange(n) // 2), RNG.normal(size=n)
    often = RNG.integers(0, 3, n // 3)
    twice = np.repeat(np.arange(n), often[given.unit])
    rows = Votes(*(getattr(given, name)[twice] for name in Votes.__dataclass_fields__))
    a = people.reliability(margin, 1.0, given, 2, often[None])
    b = people.reliability(margin[twice], 1.0, rows, 2, np.ones((1, n)))
    assert a.votes == pytest.approx(b.votes) and a.agreed == pytest.approx(b.agreed)


def test_agreement_of_people_is_what_they_were_drawn_with() -> None:
    """Each item is liked with probability p by everybody: two people agree in p^2 + (1 - p)^2."""
    items, each = 3000, 4
    p = RNG.choice([0.5, 0.9], items)
    item = np.repeat(np.arange(items), each)
    first = (RNG.random(items * each) < p[item]).astype(float)
    n = len(item)
    given = votes(n, item=item, first_share=first, weight=np.ones(n), unit=item, member=np.arange(n) % 2)
    often = np.concatenate([np.ones((1, items)), RNG.multinomial(items, np.full(items, 1 / items), 50)])
    found = people.agreement(given, SHIFT, often)
    truth = np.mean(p**2 + (1 - p) ** 2)
    for name in ("nominal", "all"):
        sd = found[name][1:].std()
        assert 0 < sd < 0.02 and found[name][0] == pytest.approx(truth, abs=4 * sd)
    ((target, metric, value, low, high, size), *_) = people.rows_of(found, "agreement", items, 0.95)
    assert (target, metric, size) == ("nominal", "agreement", items) and low < value < high


def test_the_worst_tenth_of_equal_people_is_as_good_as_everybody() -> None:
    """200 people, 20 answers each, all right in .7: picking by the same answers finds .5, two halves do not."""
    people_count, each = 200, 20
    found, naive = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(people_count), each)
        right = (rng.random(len(who)) < 0.7).astype(float)
        given = votes(len(who), person=who.astype(str), weight=np.ones(len(who)), member=np.zeros(len(who), int))
        value, ranked = people.worst_tenth(right, given, 1, 0)
        assert ranked == people_count
        found.append(value[0])
        naive.append(np.sort(right.reshape(people_count, each).mean(1))[: people_count // 10].mean())
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(0.7, abs=4 * error) and np.mean(naive) < 0.55


def test_the_worst_tenth_finds_people_who_are_worse_and_its_interval_covers() -> None:
    truth = np.r_[np.full(20, 0.3), np.full(180, 0.8)]
    covered = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        who = np.repeat(np.arange(200), 60)
        right = (rng.random(len(who)) < truth[who]).astype(float)
        given = votes(len(who), person=who.astype(str), weight=np.ones(len(who)), member=np.zeros(len(who), int))
        value, _ = people.worst_tenth(right, given, 1, 100, seed)
        low, high = people.spread(value, 0.95, 0, 1)
        covered.append(low <= 0.3 <= high)
    assert np.mean(covered) >= 0.85
    lost, _ = people.worst_tenth(1 - right, given, -1, 0)
    assert lost[0] == pytest.approx(1 - value[0]), "of a loss the largest are the worst"


def test_too_few_people_have_no_worst_tenth() -> None:
    given = votes(90, person=np.repeat(np.arange(9), 10).astype(str))
    value, ranked = people.worst_tenth(np.ones(90), given, 1, 5)
    assert ranked == 9 and np.isnan(value).all()
    nobody, ranked = people.worst_tenth(np.ones(90), votes(90), 1, 5)
    assert ranked == 0 and np.isnan(nobody).all()
