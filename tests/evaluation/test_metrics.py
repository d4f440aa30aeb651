"""The metrics' registry and formulas, and what a new metric takes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from robustalign.evaluation.metrics import METRICS, PAIR_METRICS, REPLY_METRICS, WHOLE, Metric, Replies
from robustalign.evaluation.metrics.metric import ratio_of_totals
from robustalign.shifts import Standards
from robustalign.shifts.preferences import Component

MARGINS = np.array([-2.0, 0.0, 3.0, math.nan])


def test_every_metric_is_registered_once_in_the_order_of_reports() -> None:
    assert list(METRICS) == ["reward", "accuracy", "loss", "kl"]
    assert {*PAIR_METRICS, *REPLY_METRICS} == set(METRICS.values())
    assert [metric.name for metric in METRICS.values() if not metric.compared] == ["kl"]


def test_loss_is_minus_the_log_of_a_sigmoid() -> None:
    found = METRICS["loss"].of_margins(MARGINS, 0.1)  # type: ignore[attr-defined]
    assert found == pytest.approx([-math.log(1 / (1 + math.exp(-0.1 * h))) for h in MARGINS], nan_ok=True)


def test_accuracy_counts_a_tie_half_and_keeps_nan() -> None:
    assert METRICS["accuracy"].of_margins(MARGINS, 0.1) == pytest.approx([0, 0.5, 1, math.nan], nan_ok=True)  # type: ignore[attr-defined]


@pytest.mark.parametrize("metric", PAIR_METRICS, ids=str)
def test_a_metric_of_pairs_keeps_its_bounds_and_nan(metric) -> None:
    values = metric.of_margins(np.append(np.linspace(-1e4, 1e4, 101), math.nan), 0.1)
    assert ((metric.low <= values[:-1]) & (values[:-1] <= metric.high)).all() and math.isnan(values[-1])
    better = metric.better * values[:-1]
    assert (np.diff(better) >= 0).all()  # a larger margin is never worse


def test_reward_asks_each_components_people_about_their_own_prompts() -> None:
    standards = Standards({"a": np.array([0.0, 2.0]), "b": np.array([-1.0, 1.0])})
    everybody = Component("a", ("a",), (1.0,), "population", 0.0, standards)
    some = Component("b", ("b",), (1.0,), "population", 0.0, standards, group="g")
    scores = {"a": np.array([[1.0, 3.0], [2.0, 2.0]]), "b": np.array([[1.0, 0.0], [math.nan, 5.0]])}
    replies = Replies([["", ""]] * 2, np.array(["g", "h"]), (everybody, some), scores, np.zeros((2, 2)))
    cells = METRICS["reward"].of_replies(replies)  # type: ignore[attr-defined]
    assert cells["a"].total == pytest.approx([0 + 2, 1 + 1]) and cells["a"].count.tolist() == [2, 2]
    assert cells["b"].total == pytest.approx([1 + 0, 0]) and cells["b"].count.tolist() == [2, 0]


def test_kl_is_the_same_for_everybody() -> None:
    replies = Replies([["", ""]] * 2, np.array(["", ""]), (), {}, np.array([[1.0, 2.0], [0.0, 4.0]]))
    cells = METRICS["kl"].of_replies(replies)  # type: ignore[attr-defined]
    assert list(cells) == [WHOLE] and cells[WHOLE].total.tolist() == [3.0, 4.0]
    assert METRICS["reward"].of_replies(replies) == {}  # type: ignore[attr-defined]


def test_ratio_of_totals_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    total, count, weights = rng.normal(size=(2, 3, 7)), rng.integers(0, 3, (2, 3, 7)), rng.integers(0, 3, (5, 7))
    found = ratio_of_totals(total, count, weights)
    for d, s, c in np.ndindex(found.shape):
        assert found[d, s, c] == pytest.approx((weights[d] * total[s, c]).sum() / (weights[d] * count[s, c]).sum())


def test_the_worse_of_two_follows_the_direction_and_keeps_nan() -> None:
    a, b = np.array([1.0, 1.0]), np.array([3.0, math.nan])
    assert METRICS["reward"].worse(a, b) == pytest.approx([1.0, math.nan], nan_ok=True)
    assert METRICS["loss"].worse(b, a) == pytest.approx([3.0, math.nan], nan_ok=True)


@pytest.mark.parametrize(("change", "expected"), [({"better": 0}, "better"), ({"low": 2.0}, "low")])
def test_a_metric_without_a_direction_or_bounds_is_refused(change, expected) -> None:
    with pytest.raises(ValueError, match=expected):
        replace(METRICS["accuracy"], **change)


def test_a_metric_prints_as_its_name() -> None:
    metric = Metric(name="x", title="a title", unit="1", better=1)
    assert f"{metric}" == "x" and metric.direction == "more is better"
