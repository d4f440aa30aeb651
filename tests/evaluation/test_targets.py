"""Tables of targets against closed forms and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustalign.config import ShiftConfig
from robustalign.evaluation.controls import TRAINED
from robustalign.evaluation.metrics import METRICS, Cell
from robustalign.evaluation.targets import (
    COLUMNS,
    Worth,
    evaluate_targets,
    interval,
    per_prompt,
    resample_weights,
    target_draws,
)
from robustalign.shifts import ScorerShift, Standards


def shift(**targets: list[float]) -> ScorerShift:
    config = ShiftConfig(name="x", objectives=["a", "b"], nominal=[0.9, 0.1], targets=targets, combine="population")
    return ScorerShift(config, Standards({name: np.array([0.0, 1.0]) for name in "ab"}))


def cell(totals: list[float], counts: list[int]) -> Cell:
    return Cell(np.array(totals, float), np.array(counts))


POLICY = {"control": TRAINED, "split": "test", "last_step": 7}
CELLS = {"loss": {"a": cell([1.0, 4.0, 0.0], [1, 2, 0]), "b": cell([0.0, 2.0, 6.0], [0, 1, 2])}}


def evaluated(cells=CELLS, **targets: list[float]):
    table = evaluate_targets(cells, shift(**targets), **POLICY, draws=50, confidence=0.9)
    assert tuple(table.columns) == COLUMNS
    return table.set_index(["metric", "target"])


def test_values_by_hand() -> None:
    """Component a has the mean 5/3, b has 8/3: a population is their weighted mean."""
    table = evaluated(near=[0.7, 0.3], far=[0.1, 0.9])
    a, b = 5 / 3, 8 / 3
    values = {"nominal": 0.9 * a + 0.1 * b, "near": 0.7 * a + 0.3 * b, "far": 0.1 * a + 0.9 * b}
    for target, value in values.items():
        assert table["value"]["loss", target] == pytest.approx(value, rel=1e-12)
    assert table["value"]["loss", "worst"] == pytest.approx(values["far"])
    assert table["value"]["loss", "area"] == pytest.approx((values["near"] + values["far"]) / 2)
    coordinates = [table["coordinate"]["loss", target] for target in ("nominal", "near", "far")]
    assert coordinates == pytest.approx([0.0, 0.2, 0.8]) and math.isnan(table["coordinate"]["loss", "worst"])
    assert (table["n"] == 3).all() and (table["step"] == 7).all()


def test_worst_is_the_least_of_a_reward_and_the_most_of_a_loss() -> None:
    cells = {"loss": CELLS["loss"], "reward": CELLS["loss"]}
    table = evaluated(cells, near=[0.7, 0.3], far=[0.1, 0.9])
    assert table["value"]["loss", "worst"] == table["value"]["loss", "far"]
    assert table["value"]["reward", "worst"] == table["value"]["reward", "near"]


def test_area_is_the_trapezoid_over_uneven_coordinates() -> None:
    """Targets at distance 0, 0.1 and 0.9 with values 2, 3 and 11, in any order."""
    where = shift(c=[0.0, 1.0], a=[0.9, 0.1], b=[0.8, 0.2])
    assert [where.coordinate(name) for name in "abc"] == pytest.approx([0.0, 0.1, 0.9])
    of_components = {
        component.name: np.array([value]) for component, value in zip(where.components, (1.0, 11.0), strict=True)
    }
    area = Worth(of_components, where, METRICS["reward"]).of("area")[0]
    assert area == pytest.approx((0.1 * 2.5 + 0.8 * 7.0) / 0.9, rel=1e-12)


def test_a_component_without_pairs_spoils_only_those_who_want_it() -> None:
    cells = {"loss": {"a": cell([1.0, 3.0], [1, 1]), "b": cell([0.0, 0.0], [0, 0])}}
    table = evaluated(cells, only_a=[1.0, 0.0], half=[0.5, 0.5])
    assert table["value"]["loss", "only_a"] == 2.0
    assert math.isnan(table["value"]["loss", "half"]) and math.isnan(table["low"]["loss", "half"])


def test_a_metric_of_no_population_has_one_row() -> None:
    table = evaluated({"kl": {"any": cell([2.0, 4.0], [1, 2])}}, far=[0.0, 1.0])
    assert list(table.index) == [("kl", "any")] and table["value"]["kl", "any"] == 2.0


def test_resamples_are_multinomial() -> None:
    """Row 0 is the sample; the others sum to P with mean 1, variance 1 - 1/P and covariance -1/P."""
    weights = resample_weights(20, 20_000, seed=0)
    assert (weights[0] == 1).all() and (weights.sum(1) == 20).all()
    covariance = np.cov(weights[1:].T)
    assert weights[1:].mean() == 1.0
    assert np.diag(covariance) == pytest.approx(np.full(20, 0.95), abs=6 * 0.95 * math.sqrt(3 / 20_000))
    off = covariance[~np.eye(20, dtype=bool)]
    assert off == pytest.approx(np.full(380, -0.05), abs=6 / math.sqrt(20_000))


def test_intervals_cover_the_mean() -> None:
    """90 % intervals for a population's mean over 60 prompts: coverage within 4 binomial deviations of 90 %, after the
    two points that a percentile interval of 60 prompts loses."""
    rng, hits, repeats = np.random.default_rng(5), 0, 200
    for seed in range(repeats):
        cells = {"loss": {name: Cell(rng.exponential(size=60), np.ones(60, int)) for name in "ab"}}
        values = target_draws(cells["loss"], shift(far=[0.0, 1.0]), METRICS["loss"], 400, seed)["nominal"]
        low, high = interval(values[1:], 0.9)
        hits += low <= 1.0 <= high
    assert abs(hits / repeats - 0.88) < 4 * math.sqrt(0.09 / repeats)


def test_a_hard_prompt_moves_its_components_together() -> None:
    """What a prompt does to both components is not averaged away by resampling them apart."""
    rng = np.random.default_rng(0)
    hard = rng.normal(size=200)
    together = {name: Cell(hard, np.ones(200, int)) for name in "ab"}
    apart = {name: Cell(rng.permutation(hard), np.ones(200, int)) for name in "ab"}
    half = {"half": [0.5, 0.5]}
    spread = [
        target_draws(cells, shift(**half), METRICS["loss"], 2000, 0)["half"][1:].std() for cells in (together, apart)
    ]
    assert spread[0] / spread[1] == pytest.approx(math.sqrt(2), rel=0.12)


def test_per_prompt_rows_add_up() -> None:
    frame = per_prompt(CELLS, **POLICY)
    sums = frame.groupby("component")[["total", "count"]].sum()
    assert sums.loc["a"].tolist() == [5.0, 3.0] and sums.loc["b"].tolist() == [8.0, 3.0]
    assert len(frame) == 6 and set(frame["prompt"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("draws", "expected"), [([1.0, math.nan, 3.0], (1.0, 3.0)), ([math.nan], (math.nan, math.nan))]
)
def test_interval_leaves_out_what_is_not_a_number(draws: list[float], expected: tuple[float, float]) -> None:
    assert interval(np.array(draws), 1.0 - 1e-12) == pytest.approx(expected, nan_ok=True)


def test_what_is_not_a_number_has_no_interval() -> None:
    """Although some resamples miss the prompt that is nan."""
    cells = {"accuracy": {"a": cell([1.0, math.nan, 1.0], [1, 1, 1]), "b": cell([1.0, 1.0, 0.0], [1, 1, 1])}}
    table = evaluated(cells, only_b=[0.0, 1.0], half=[0.5, 0.5])
    for target in ("half", "worst", "area", "nominal"):
        assert table.loc[("accuracy", target), ["value", "low", "high"]].isna().all()
    assert table.loc[("accuracy", "only_b"), ["value", "low", "high"]].notna().all()


def test_an_interval_leaves_half_of_the_rest_on_each_side() -> None:
    draws = np.append(np.arange(101.0), np.nan)
    assert interval(draws, 0.9) == pytest.approx((5, 95))
    assert np.isnan(interval(np.array([np.nan]), 0.9)).all()


def test_the_worst_of_many_targets_is_the_worst_of_all_of_them() -> None:
    """On a line of populations, where the two ends are enough, and in a plane, where no two are."""
    rng = np.random.default_rng(3)
    line = {f"t{k}": [1 - k / 7, k / 7] for k in range(8)}
    plane = {"u": [0.8, 0.1, 0.1], "v": [0.1, 0.8, 0.1], "w": [0.1, 0.1, 0.8], "middle": [0.3, 0.3, 0.4]}
    for targets in (line, plane):
        names = list("abc"[: len(next(iter(targets.values())))])
        config = ShiftConfig(
            name="x", objectives=names, nominal=next(iter(targets.values())), targets=targets, combine="population"
        )
        where = ScorerShift(config, Standards({name: np.array([0.0, 1.0]) for name in names}))
        values = {component.name: rng.normal(size=(500, 2)) for component in where.components}
        for metric, least in (("reward", np.min), ("loss", np.max)):
            worth = Worth(values, where, METRICS[metric])
            np.testing.assert_allclose(
                worth.of("worst"), least([worth.of(name) for name in targets], axis=0), atol=1e-15
            )
