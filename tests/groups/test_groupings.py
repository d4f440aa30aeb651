"""Each grouping on pairs of which the truth is known; evidence that believes, doubts and refuses."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from robustalign.config import config_dir
from robustalign.errors import ConfigError
from robustalign.groups import GROUPINGS, Evidence, PairData, PairGroups, build_grouping, weigh_evidence
from robustalign.groups.evidence import adjusted_rand, area_under_curve
from robustalign.groups.methods.annotators import fit_tastes
from robustalign.groups.methods.calibrated import fit_heads
from robustalign.groups.people import persons_differ
from robustalign.groups.taste import sigmoid


def minority(share: float = 0.2, n: int = 3000, seed: int = 0) -> tuple[PairData, np.ndarray]:
    """Most people want feature 0, which is yes or no; a few want feature 1, and feature 0 differs in a fifth of their
    pairs; 18 features matter to nobody; five pairs a prompt."""
    rng = np.random.default_rng(seed)
    x, few = rng.normal(size=(n, 20)), rng.random(n) < share
    differs = ~few | (rng.random(n) < 0.2)
    x[:, 0] = np.where(differs, rng.choice([-1.0, 1.0], n), 0.1 * x[:, 0])
    wanted = np.where(few, x[:, 1], x[:, 0])
    return PairData(prompt=np.arange(n) // 5, features=np.where((wanted > 0)[:, None], x, -x)), few


def flipped(share: float = 0.1, n: int = 3000, seed: int = 0) -> tuple[PairData, np.ndarray]:
    """All want feature 0, a shade; some labels are wrong."""
    rng = np.random.default_rng(seed)
    x, wrong = rng.normal(size=(n, 20)), rng.random(n) < share
    return PairData(prompt=np.arange(n) // 5, features=np.where(((x[:, 0] > 0) != wrong)[:, None], x, -x)), wrong


def found_by(options: dict, data: PairData, columns=None) -> tuple[np.ndarray, Evidence]:
    found = build_grouping(options).find(data)
    assert np.allclose(found.membership.sum(1), 1) and (found.membership >= 0).all()
    return found.membership, weigh_evidence(found, data.prompt, columns or {})


def test_every_grouping_has_a_preset_with_all_its_fields() -> None:
    presets = {path.stem: path for path in (config_dir() / "groups").glob("*.yaml")}
    assert set(presets) == set(GROUPINGS)
    for name, path in presets.items():
        options = dict(OmegaConf.load(Path(path)))
        assert set(options) - {"method", "require_evidence"} == {field.name for field in fields(GROUPINGS[name])}  # type: ignore[arg-type]
        assert build_grouping(OmegaConf.to_container(OmegaConf.create(options))).name == name  # type: ignore[arg-type]


def test_a_neglected_minority_is_found_and_believed() -> None:
    data, few = minority()
    _, evidence = found_by({"method": "overlooked"}, data, {"truth": few.astype(str)})
    agreement = evidence.agreement[0]
    assert agreement.auc > 0.85 and agreement.precision > 0.9 and agreement.recall > 0.5
    assert evidence.believable and evidence.low > 0 and evidence.facts["reversal"] < 0.4
    assert "There is reason to believe" in evidence.sentence


def test_flipped_labels_are_structure_that_is_doubted() -> None:
    data, wrong = flipped()
    _, evidence = found_by({"method": "overlooked"}, data, {"truth": wrong.astype(str)})
    assert evidence.low > 0 and evidence.facts["reversal"] > 0.6, "more structured than a minority"
    assert not evidence.believable and "flipped labels" in evidence.sentence


def test_people_of_one_taste_are_not_believed_to_be_two() -> None:
    """Bradley-Terry choices of one taste: their contradictions are those that the model expects."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 10))
    wins = rng.random(3000) < sigmoid(2 * x[:, 0])
    data = PairData(prompt=np.arange(3000), features=np.where(wins[:, None], x, -x))
    _, evidence = found_by({"method": "overlooked"}, data)
    assert not evidence.believable
    clear, _ = minority(0.0)
    _, evidence = found_by({"method": "overlooked"}, clear)
    assert evidence.low <= 0 and "no reason" in evidence.sentence


def test_overlooked_pairs_that_no_person_has_more_of_are_noise() -> None:
    data, few = minority()
    people = np.arange(len(few)) % 60
    mixed = PairData(prompt=data.prompt, features=data.features, columns={"annotator": people.astype(str)})
    assert any("no annotator" in doubt for doubt in found_by({"method": "overlooked"}, mixed)[1].doubts)
    order = np.empty(len(few), dtype=int)
    order[np.argsort(few, kind="stable")] = np.arange(len(few)) // 50
    own = PairData(prompt=data.prompt, features=data.features, columns={"annotator": order.astype(str)})
    assert found_by({"method": "overlooked"}, own)[1].believable


def test_soft_membership_is_the_probability_of_a_coin() -> None:
    data, few = minority()
    membership, _ = found_by({"method": "overlooked", "soft": True}, data)
    assert ((membership > 0) & (membership < 1)).all()
    assert membership[few, 1].mean() > 3 * membership[~few, 1].mean()


def test_reversing_the_order_of_pairs_changes_nothing_else() -> None:
    data, _ = minority(n=600)
    assert data.features is not None
    back = PairData(prompt=data.prompt[::-1], features=data.features[::-1])
    one, _ = found_by({"method": "overlooked"}, data)
    other, _ = found_by({"method": "overlooked"}, back)
    np.testing.assert_array_equal(one, other[::-1])


def people_of_two_tastes(answers: int = 20) -> tuple[PairData, np.ndarray]:
    rng = np.random.default_rng(4)
    who = np.repeat(np.arange(80), answers)
    kind = (np.arange(80) < 25).astype(int)
    x = rng.normal(size=(len(who), 6))
    wanted = np.where(kind[who] == 1, x[:, 1], x[:, 0])
    wins = rng.random(len(who)) < sigmoid(3 * wanted)
    data = PairData(
        prompt=rng.integers(0, 300, size=len(who)),
        features=np.where(wins[:, None], x, -x),
        columns={"annotator": np.char.add("p", who.astype(str))},
    )
    return data, kind[who]


def test_tastes_of_people_are_found_and_hold_on_other_prompts() -> None:
    data, kind = people_of_two_tastes()
    membership, evidence = found_by({"method": "annotators", "k": 2}, data, {"kind": kind.astype(str)})
    assert evidence.believable and evidence.agreement[0].rand > 0.9
    assert evidence.shares[1] == pytest.approx(25 / 80, abs=0.05), "the smaller taste is last"
    who = data.columns["annotator"]
    assert all(np.ptp(membership[who == u], axis=0).max() == 0 for u in np.unique(who)), "one taste a person"


def test_more_rounds_of_em_never_lower_the_penalised_likelihood() -> None:
    """EM with a ridge ascends log p - ridge |w|^2 / 2."""
    data, _ = people_of_two_tastes()
    _, who = np.unique(data.columns["annotator"], return_inverse=True)
    assert data.features is not None
    values = []
    for rounds in (1, 2, 3, 5, 8):
        tastes = fit_tastes(data.features, who, 2, 5.0, rounds, np.random.default_rng(0))
        values.append(tastes.log_likelihood - 5.0 * (tastes.w**2).sum() / 2)
    assert all(b >= a - 1e-6 for a, b in pairwise(values))


def test_responsibilities_are_those_of_a_plain_loop() -> None:
    data, _ = people_of_two_tastes(answers=4)
    _, who = np.unique(data.columns["annotator"], return_inverse=True)
    x = data.features
    assert x is not None
    tastes = fit_tastes(x, who, 2, 5.0, 1, np.random.default_rng(0))
    g = tastes.people(x, who, 80, 1)
    for u in (0, 7):
        joint = tastes.shares * np.array([np.prod([sigmoid(row @ w) for row in x[who == u]]) for w in tastes.w])
        np.testing.assert_allclose(g[u], joint / joint.sum(), rtol=1e-9)


def test_heads_vote_as_people_do() -> None:
    """Three kinds of people want one of three features each: a reply's share is a mean of three signs."""
    x = np.random.default_rng(6).normal(size=(2000, 3))
    share = (x > 0).mean(1)
    one, three = (((x @ fit_heads(x, share, k, 30.0).T) > 0).mean(1) for k in (1, 3))
    assert np.square(three - share).mean() < 0.5 * np.square(one - share).mean()
    data = PairData(prompt=np.arange(2000), features=x, vote_share=share)
    _, evidence = found_by({"method": "calibrated", "k": 3}, data)
    assert len(evidence.shares) == 3


def test_bins_have_equal_shares_and_ties_stay_together() -> None:
    data = PairData(prompt=np.arange(8), columns={"length": np.array([1.0, 1, 1, 1, 1, 2, 3, 4])})
    membership, _ = found_by({"method": "bins", "by": "length", "k": 4}, data)
    assert membership[:5].tolist() == [membership[0].tolist()] * 5
    even = PairData(prompt=np.arange(8), columns={"length": np.arange(8.0)})
    assert found_by({"method": "bins", "by": "length", "k": 4}, even)[1].shares == (0.25,) * 4


def test_columns_put_the_rarest_value_last() -> None:
    data = PairData(prompt=np.arange(5), columns={"country": np.array(["UK", "US", "US", "FR", "FR"])})
    found = build_grouping({"method": "column", "by": "country"}).find(data)
    assert found.names == ("FR", "US", "UK") and found.membership.argmax(1).tolist() == [2, 1, 1, 0, 0]


def test_wrong_pairs_of_a_first_run() -> None:
    data = PairData(prompt=np.arange(4), losses=np.array([0.1, 0.9, np.log(2), 3.0]))
    membership, _ = found_by({"method": "high_loss"}, data)
    assert membership[:, 1].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "annotators", "k": 90}, "k: 90 tastes need as many people, column 'annotator' has 80"),
        ({"method": "annotators", "min_answers": 99}, "min_answers: 0 of 80 people"),
        ({"method": "annotators", "by": "prompt"}, "by: the pairs have no column 'prompt'"),
        ({"method": "annotators", "across": "topic"}, "across: the pairs have no column 'topic'"),
    ],
)
def test_people_that_cannot_serve(options: dict, message: str) -> None:
    data, _ = people_of_two_tastes()
    with pytest.raises(ValueError, match="^" + message):
        build_grouping(options).find(data)


def test_a_column_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"groups\.by: column needs it"):
        build_grouping({"method": "column"})


def test_a_flag_of_persons_and_one_of_chance() -> None:
    rng = np.random.default_rng(0)
    person, prompt = np.arange(2000) % 50, rng.integers(0, 400, size=2000)
    assert persons_differ((person < 5) & (rng.random(2000) < 0.8), person, prompt)
    assert not persons_differ(rng.random(2000) < 0.1, person, prompt)
    assert persons_differ(rng.random(20) < 0.5, np.arange(20) % 4, np.arange(20)), "too few people to doubt"


def test_measures_of_agreement_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    a, b, score = rng.integers(0, 3, 200), rng.integers(0, 4, 200), rng.integers(0, 9, 200)
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))
    assert adjusted_rand(a, (a + 1) % 3) == pytest.approx(1.0)
    assert area_under_curve(score, b == 0) == pytest.approx(roc_auc_score(b == 0, score))


def test_the_interval_is_over_units_not_pairs() -> None:
    """Every gain ten times over, of one prompt each: the interval of one copy."""
    rng = np.random.default_rng(2)
    data, _ = minority(n=500)
    found = build_grouping({"method": "overlooked"}).find(data)
    gain = rng.normal(1.0, 1.0, size=100)
    once = weigh_evidence(replace(found, gain=gain), np.arange(100), {})
    tenfold = weigh_evidence(replace(found, gain=np.repeat(gain, 10)), np.repeat(np.arange(100), 10), {})
    assert (tenfold.gain, tenfold.low, tenfold.high) == pytest.approx((once.gain, once.low, once.high))
    assert once.high - once.gain == pytest.approx(1.96 * gain.std(ddof=1) / 10, rel=1e-6)


def test_weights_give_the_last_group_its_mass() -> None:
    membership = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    evidence = Evidence(names=("a", "b"), shares=(0.875, 0.125), gain=0.0, low=0.0, high=0.0)
    weight = PairGroups(membership, evidence).weight(0.3)
    assert weight is not None and weight.mean() == pytest.approx(1.0)
    assert weight.tolist() == pytest.approx([0.8, 0.8, 0.4 + 1.2, 0.8])
    assert PairGroups(np.ones((4, 1)), evidence).weight(0.3) is None
    assert PairGroups(np.eye(2)[[0, 0]], evidence).weight(0.3) is None
