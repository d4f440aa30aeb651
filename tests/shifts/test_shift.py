"""What every shift offers, and what is left of it on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robustalign.config import ShiftConfig
from robustalign.errors import ConfigError
from robustalign.shifts import Recorded, ScorerShift, Standards


def scorers(**settings) -> ScorerShift:
    values = {"name": "s", "objectives": ["a", "b"], "nominal": [0.9, 0.1], "combine": "population"}
    standards = Standards({name: np.array([0.0, 1.0]) for name in "ab"})
    return ScorerShift(
        ShiftConfig(**(values | {"targets": {"half": [0.5, 0.5], "b": [0.0, 1.0]}} | settings)), standards
    )


@pytest.mark.parametrize("combine", ["population", "convex"])
def test_a_record_is_the_same_populations(combine: str) -> None:
    shift = scorers(combine=combine)
    again = Recorded(json.loads(json.dumps(shift.record())))
    assert [c.name for c in again.components] == [c.name for c in shift.components] and again.names == shift.names
    assert again.shares().tolist() == shift.shares().tolist() and again.farthest() == shift.farthest() == "b"
    for name in shift.names:
        assert again.shares(name).tolist() == shift.shares(name).tolist()
        assert again.coordinate(name) == shift.coordinate(name) and again.pure(name) == shift.pure(name)
    assert [name for name in shift.names if shift.pure(name)] == ["b"]


def test_importance_is_the_ratio_of_shares_where_the_nominal_population_has_everybody() -> None:
    assert scorers().importance("half") == pytest.approx([5 / 9, 5])
    assert scorers(nominal=[1.0, 0.0]).importance("half") is None
    assert scorers(nominal=[1.0, 0.0], targets={"a": [1.0, 0.0]}).importance("a") == pytest.approx([1, 0])
    assert scorers(combine="convex").importance("half") is None, "every mixture labels anew"


def test_nobody_judges_new_replies_where_people_chose() -> None:
    assert [judge.name for judge in scorers().judges] == ["a", "b"]
    assert scorers(objectives=["human"], nominal=[1.0], targets={}, combine="convex").judges == ()


def test_without_targets_none_is_the_farthest() -> None:
    with pytest.raises(ConfigError, match=r"shift\.targets: is empty"):
        scorers(targets={}).farthest()
