"""Levels of policies with intervals that hold: also of the worst target, which was picked because it looks worst."""

from __future__ import annotations

import numpy as np
import pytest

from robustalign.evaluation.metrics import METRICS
from robustalign.evaluation.targets import Worth
from robustalign.report import statistics
from robustalign.report.measures import Values
from robustalign.shifts import Recorded

SEEDS, PROMPTS, DRAWS, TARGETS = 5, 200, 400, 8


def accuracies(rng: np.random.Generator, better: int) -> Values:
    """Eight targets of the same worth .7 (or .3), answers drawn for the same prompts by five seeds."""
    rate = 0.7 if better > 0 else 0.3
    hard = rng.normal(size=(1, PROMPTS, TARGETS))
    own = rng.normal(size=(SEEDS, PROMPTS, TARGETS))
    right = (0.6 * hard + 0.8 * own < -statistics.NormalDist().inv_cdf(1 - rate)).astype(float)
    weights = statistics.prompt_weights(PROMPTS, DRAWS)
    each = np.moveaxis(np.einsum("dp,spt->sdt", weights, right), 0, 1) / weights.sum(1)[:, None, None]
    return of_groups(np.moveaxis(each, 2, 0), better)


def of_groups(each: np.ndarray, better: int) -> Values:
    """Values ``[T, 1 + D, S]`` of groups, each of which is a target."""
    names, alone = [f"group {index}" for index in range(len(each))], np.eye(len(each))
    targets, coordinates = dict(zip(names, alone, strict=True)), dict.fromkeys(names, 1.0)
    shift = Recorded({"components": names, "nominal": alone[0], "targets": targets, "coordinates": coordinates})
    metric = next(metric for metric in METRICS.values() if metric.better == better)
    worth = Worth(dict(zip(names, each, strict=True)), shift, metric)
    return Values(worth, tuple(range(SEEDS)), PROMPTS, (0.0, 1.0), better)


@pytest.mark.parametrize("better", [1, -1])
def test_the_interval_of_the_worst_target_covers_its_truth(better: int) -> None:
    """150 data sets at 95 %: three standard errors below are .897."""
    rng = np.random.default_rng(3)
    truth, held, plain = (0.7 if better > 0 else 0.3), [], []
    for _ in range(150):
        values = accuracies(rng, better)
        found = values.estimate("worst")
        held.append(found.low <= truth <= found.high)
        assert found.low <= found.value <= found.high
        percentile = statistics.estimate(values.of("worst"), PROMPTS)
        plain.append(percentile.low <= truth <= percentile.high)
    assert np.mean(held) >= 0.897
    assert np.mean(plain) < 0.5, "the bootstrap of the worst itself misses the truth"


def test_other_targets_and_a_single_one_keep_their_own_interval() -> None:
    values = accuracies(np.random.default_rng(0), 1)
    assert values.estimate("group 1") == statistics.estimate(values.of("group 1"), PROMPTS)
    one = of_groups(values.of("group 0")[None], 1)
    assert one.estimate("worst") == one.estimate("group 0")
