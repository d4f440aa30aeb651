"""Who prefers what: label direction, mixtures, counts of what is dropped, distances between populations."""

from __future__ import annotations

import numpy as np
import pytest

from robustalign.config import PairsConfig, ShiftConfig
from robustalign.errors import ConfigError
from robustalign.shifts import Component, ScorerShift, Standards, draw_pairs

RNG = np.random.default_rng(0)
SCORES = {"a": RNG.random((300, 6)), "b": RNG.random((300, 6)), "words": -RNG.integers(1, 30, (300, 6)).astype(float)}
STANDARDS = Standards({name: values.ravel() for name, values in SCORES.items()}, frozenset({"a", "b"}))
TEXTS = [[f"{p}-{r}" for r in range(6)] for p in range(300)]
NO_GROUPS = [""] * 300


def component(weights=(0.3, 0.7), combine="convex", objectives=("a", "b"), group="") -> Component:
    return Component("c", objectives, tuple(weights), combine, 0.01, STANDARDS, group)


def draw(rule: PairsConfig, scores=SCORES, part=None, texts=TEXTS, groups=NO_GROUPS, **options):
    settings = {"per_prompt": 4, "seed": 0} | options
    return draw_pairs(part or component(), 0, scores, texts, groups, rule, **settings)


def shift(**settings) -> ScorerShift:
    base = {"objectives": ["a", "b"], "nominal": [0.9, 0.1], "combine": "population"}
    targets = {"same": [0.9, 0.1], "half": [0.5, 0.5], "other": [0.0, 1.0]}
    return ScorerShift(ShiftConfig(name="s", targets=targets, **(base | settings)), STANDARDS)


@pytest.mark.parametrize("combine", ["convex", "geometric"])
@pytest.mark.parametrize("pure", ["a", "b", "words"])
def test_a_mixture_at_the_ends_is_the_pure_reward(combine: str, pure: str) -> None:
    """Its order on every prompt; for convex mixtures its standardised value too."""
    objectives = ("words", "a") if pure == "words" else ("a", "b")
    weights = [float(name == pure) for name in objectives]
    utility = component(weights, combine, objectives).utility(SCORES)
    assert utility.mean() == pytest.approx(0, abs=1e-9) and utility.std() == pytest.approx(1)
    floor_free = np.maximum(SCORES[pure], 0.01) if pure != "words" else SCORES[pure]
    if combine == "convex":
        np.testing.assert_allclose(utility, STANDARDS.z(pure, SCORES))
    else:
        agree = np.sign(np.diff(utility)) == np.sign(np.diff(floor_free))
        assert agree.mean() > 0.97, "ties under the floor or the empirical distribution apart"


def test_a_leading_minus_negates() -> None:
    np.testing.assert_allclose(STANDARDS.z("-a", SCORES), -STANDARDS.z("a", SCORES))


def test_a_constant_objective_is_an_error() -> None:
    flat = Standards({"a": np.ones(5)})
    with pytest.raises(ConfigError, match=r"shift.objectives: 'a' is the same"):
        flat.z("a", {"a": np.ones((2, 2))})


@pytest.mark.parametrize("rule", ["best_worst", "argmax"])
def test_chosen_scores_higher(rule: str) -> None:
    utility = component().utility(SCORES)
    pairs = draw(PairsConfig(rule=rule, m=3))
    gaps = utility[pairs.prompt, pairs.chosen] - utility[pairs.prompt, pairs.rejected]
    assert (gaps > 0).all()
    np.testing.assert_allclose(gaps, pairs.gap)
    if rule == "argmax":
        assert len(pairs) == 300 and pairs.dropped["repeated"] == 900
        np.testing.assert_allclose(gaps, np.ptp(utility, axis=1))


@pytest.mark.parametrize("temperature", [0.25, 2.0])
def test_bradley_terry_frequency_is_the_sigmoid(temperature: float) -> None:
    """P(first preferred) = sigmoid(gap / temperature), over 20,000 draws of one pair, within 4 standard errors."""
    scores = {"a": np.tile([[0.3, 0.6]], (20_000, 1)), "b": np.tile([[0.5, 0.2]], (20_000, 1))}
    gap = float(np.ptp(component().utility(scores)[0]))
    higher = int(component().utility(scores)[0].argmax())
    rule = PairsConfig(rule="bradley_terry", temperature=temperature)
    pairs = draw(rule, scores, texts=[["x", "y"]] * 20_000, groups=[""] * 20_000, per_prompt=1)
    expected = 1 / (1 + np.exp(-gap / temperature))
    assert (pairs.chosen == higher).mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 20_000))
    assert expected > 0.5


def test_everything_dropped_is_counted() -> None:
    scores = {"a": np.array([[0.5, 0.5], [0.1, 0.9], [0.1, 0.9], [0.40, 0.41]]), "b": np.zeros((4, 2))}
    part = Component("a", ("a",), (1.0,), "convex", 0.01, Standards({"a": RNG.random(1000)}))
    texts = [["p", "q"], ["same", "same"], ["p", "q"], ["p", "q"]]
    rule = PairsConfig(rule="argmax", min_gap=0.5)
    pairs = draw(rule, scores, part, texts, [""] * 4, per_prompt=2)
    assert pairs.dropped == {"tie": 2, "small gap": 2, "identical replies": 2, "repeated": 1}
    assert pairs.prompt.tolist() == [2] and pairs.chosen.tolist() == [1]


def test_populations_look_at_the_same_candidates() -> None:
    one, other = (draw(PairsConfig(m=3), part=component(w)) for w in ((1.0, 0.0), (1.0, 0.0)))
    assert (one.chosen == other.chosen).all()
    groups = ["question", "statement"] * 150
    seen = draw(PairsConfig(m=3), part=component(group="question"), groups=groups)
    assert set(seen.prompt % 2) == {0}


def test_shares_and_coordinates() -> None:
    s = shift()
    assert [c.name for c in s.components] == ["a", "b"]
    assert s.shares().tolist() == [0.9, 0.1] and s.shares("half").tolist() == [0.5, 0.5]
    assert [s.coordinate(t) for t in s.names] == pytest.approx([0.0, 0.4, 0.9])
    assert s.farthest() == "other"


def test_kl_between_populations_is_that_of_their_shares() -> None:
    s, rule = shift(), PairsConfig()
    assert s.kl("same", SCORES, rule) == 0
    assert s.kl("half", SCORES, rule) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))
    assert s.kl("other", SCORES, rule) == pytest.approx(np.log(10))


def test_kl_of_bradley_terry_labels_and_its_absence_for_deterministic_ones() -> None:
    s = shift(combine="convex")
    assert np.isnan(s.kl("half", SCORES, PairsConfig(rule="best_worst")))
    rule = PairsConfig(rule="bradley_terry", temperature=0.7)
    assert s.kl("same", SCORES, rule) == pytest.approx(0, abs=1e-15)
    by_hand = []
    for row in range(300):
        p, q = (
            1 / (1 + np.exp(-(u[row, 0] - u[row, 1]) / 0.7))
            for u in (component((0.5, 0.5)).utility(SCORES), component((0.9, 0.1)).utility(SCORES))
        )
        by_hand.append(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    assert s.kl("half", SCORES, rule) == pytest.approx(np.mean(by_hand))


def test_flip_rates() -> None:
    z = {name: STANDARDS.z(name, SCORES) for name in ("a", "b")}
    disagree = np.mean((z["a"][:, 0] - z["a"][:, 1]) * (z["b"][:, 0] - z["b"][:, 1]) < 0)
    s = shift()
    assert s.flip_rate("same", SCORES) == 0
    assert s.flip_rate("half", SCORES) == pytest.approx(0.4 * disagree)
    mixed = shift(combine="convex")
    assert mixed.flip_rate("same", SCORES) == 0 < mixed.flip_rate("half", SCORES) < mixed.flip_rate("other", SCORES)


def test_a_tie_is_no_flip() -> None:
    """Two replies that one objective finds equal have no order there that could differ."""
    scores = {"a": np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), "b": np.array([[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])}
    whole = float(np.maximum(shift().shares("other") - shift().shares(), 0).sum())
    assert shift().flip_rate("other", scores) == pytest.approx(whole / 3), "of three pairs one is turned, one is a tie"


def test_of_three_groups_those_who_come_are_compared_with_those_who_go() -> None:
    """The share that moves from a to b and from a to c, each with its own disagreement; who stays plays no part."""
    scores = {name: SCORES[name][:, :2] for name in ("a", "b")}
    settings = {"objectives": ["a", "b", "-a"], "nominal": [0.8, 0.2, 0.0], "targets": {"t": [0.2, 0.5, 0.3]}}
    s = ScorerShift(ShiftConfig(name="s", combine="population", **settings), STANDARDS)
    order = {name: np.sign(np.diff(-scores[name], axis=1)[:, 0]) for name in scores}
    from_a_to_b, from_a_to_minus_a = np.mean(order["a"] * order["b"] < 0), np.mean(order["a"] != 0)
    assert s.flip_rate("t", scores) == pytest.approx(0.3 * from_a_to_b + 0.3 * from_a_to_minus_a)


def test_visible_groups_confine_annotators() -> None:
    tagged = shift(visible="tag")
    assert [c.group for c in tagged.components] == ["a", "b"]
    natural = shift(visible="natural", groups=["question", "statement"])
    assert [c.group for c in natural.components] == ["question", "statement"]
