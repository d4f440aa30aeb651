"""Populations of people, by hand: who is in which group, what is trained on, what is refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from robustalign.config import PairsConfig, ShiftConfig
from robustalign.errors import ConfigError
from robustalign.shifts import Recorded
from robustalign.shifts.columns import ColumnShift, column_shift
from robustalign.shifts.labels import NEW, SEEN, seconds


def split(**columns: list[str]) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=str) for name, values in columns.items()}


DATA = {
    "train": split(country=["US"] * 6 + ["UK"] * 3 + ["NZ"], gender=["f", "m"] * 5),
    "validation": split(country=["US", "UK", "FR"], gender=["f", "m", ""]),
    "test": split(country=["US", "UK", "UK", "US", "NZ"], gender=["f", "m", "f", "m", "f"]),
}


def shift(data=DATA, **settings) -> ColumnShift:
    values = {"name": "s", "kind": "groups", "by": "country", "min_rows": 2} | settings
    return column_shift(ShiftConfig(**values), data, ["validation", "test"])


def names(found: ColumnShift) -> list[str]:
    return [component.name for component in found.components]


def test_observed_shares_are_those_of_the_training_rows_and_small_groups_are_pooled() -> None:
    found = shift()
    assert names(found) == ["UK", "US", "other"] and found.pooled == ["FR", "NZ"]
    assert found.shares() == pytest.approx([0.3, 0.6, 0.1])
    assert found.members(DATA["test"]).tolist() == [1, 0, 0, 1, 2]
    assert found.members(split(country=["US", "BR"])).tolist() == [1, 2], "an unseen value is one of the others"
    assert found.rows["NZ"] == {"train": 1, "validation": 0, "test": 1}


def test_a_group_that_is_trained_on_stands_alone_and_is_a_target_where_it_can_be_measured() -> None:
    found = shift(nominal={"NZ": 0.5, "US": 0.5})
    assert names(found) == ["NZ", "UK", "US", "other"] and found.shares().tolist() == [0.5, 0, 0.5, 0]
    assert found.names == ("UK", "US", "other")


def test_targets_of_each_kind() -> None:
    each = shift(targets="each", nominal={"US": 0.9, "UK": 0.1})
    assert each.names == ("UK", "US", "other") and each.shares("US").tolist() == [0, 1, 0]
    assert [each.coordinate(name) for name in each.names] == pytest.approx([0.9, 0.1, 1.0])
    assert each.importance("UK") == pytest.approx([10, 0, 0]) and each.importance("other") is None
    assert shift(targets="worst").names == each.names
    assert shift(targets="uniform").shares("uniform") == pytest.approx([1 / 3] * 3)
    rest = shift(targets="leave_one_out")
    assert rest.shares("without US") == pytest.approx([0.75, 0, 0.25])
    assert shift(targets=["each", "uniform"]).names == ("UK", "US", "other", "uniform")
    joined = shift(targets=["each", {"half": {"US": 0.5, "UK": 0.5}}])
    assert joined.names == ("UK", "US", "other", "half")
    with pytest.raises(ConfigError, match=r"shift\.targets\.US: is the name of two targets"):
        shift(targets=["each", {"US": {"UK": 1}}])
    named = shift(targets={"half": {"US": 0.5, "UK": 0.5}})
    assert named.names == ("half",) and named.shares("half").tolist() == [0.5, 0.5, 0]


def test_columns_cross_and_a_missing_value_is_a_group_of_its_own() -> None:
    found = shift(by=["country", "gender"], min_rows=1)
    assert set(names(found)) == {"US × f", "US × m", "UK × m", "UK × f", "NZ × f", "FR × unknown", "other"}
    assert found.place["NZ × m"] == names(found).index("other"), "its only row is trained on"


def test_a_record_of_it_is_the_same_populations() -> None:
    found = shift(targets=["each", "uniform"])
    again = Recorded(json.loads(json.dumps(found.record())))
    for name in found.names:
        assert again.shares(name) == pytest.approx(found.shares(name)) and again.coordinate(name) == found.coordinate(
            name
        )
    assert [name for name in again.names if again.pure(name)] == ["UK", "US", "other"]


def test_pairs_of_a_group_are_its_rows_with_their_votes() -> None:
    test = DATA["test"]
    rows = SimpleNamespace(columns=test, soft_label=np.array([np.nan, 0.8, 0.5, 1.0, 0.6]), weight=np.arange(5.0))
    found = shift().pairs(rows, 0, PairsConfig(temperature=2.0), per_prompt=1, seed=0)
    assert found.prompt.tolist() == [1, 2] and found.chosen.tolist() == [0, 0] and found.rejected.tolist() == [1, 1]
    assert found.annotator.tolist() == [0, 0] and found.weight.tolist() == [1, 2]
    assert found.soft_label.tolist() == [0.8, 0.5]
    assert 1 / (1 + np.exp(-found.gap / 2)) == pytest.approx([0.8, 0.5])
    one_vote = shift().pairs(rows, 1, PairsConfig(), per_prompt=1, seed=0)
    assert one_vote.soft_label.tolist() == [1.0, 1.0], "a comparison without a share is one vote"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "city"}, r"shift\.by: no column 'city'; there are: country, gender"),
        ({"nominal": {"BR": 1.0}}, r"shift\.nominal: no group 'BR' in column country; there are: UK, US, other"),
        ({"targets": {"x": {"NZ": 1.0}}}, r"shift\.targets\.x: 'NZ' has fewer than shift\.min_rows=2"),
        ({"nominal": {"FR": 1.0}}, r"shift\.nominal: no training row is of 'FR'"),
        ({"targets": {"x": {"BR": 1.0}}}, r"shift\.targets\.x: no group 'BR'"),
        ({"min_rows": 50}, r"shift\.min_rows: column country makes 4 groups, and no group has 50"),
        ({"nominal": 0.3}, r"shift\.nominal: 0\.3 is no mapping of groups to shares"),
    ],
    ids=str,
)
def test_refused(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shift(**settings)


def test_one_group_only_and_reserved_names_are_refused() -> None:
    alone = {name: split(country=["US"] * 9) for name in DATA}
    with pytest.raises(ConfigError, match=r"shift\.by: column country tells no people apart: every row is of 'US'"):
        shift(alone)
    clash = {name: split(country=["worst", "US"] * 9) for name in DATA}
    with pytest.raises(ConfigError, match=r"shift\.by: column country has the value 'worst'"):
        shift(clash)


def dated(*days: int) -> dict[str, np.ndarray]:
    return split(when=[f"2024-01-{day:02d}" for day in days])


TIMES = {"train": dated(*range(1, 11)), "test": dated(*range(11, 21))}


def test_windows_of_time_hold_as_many_rows_each_after_the_cut() -> None:
    half = column_shift(ShiftConfig(name="t", kind="time", by="when", cut=0.5, windows=2), TIMES, ["test"])
    assert names(half) == ["past", "window 1", "window 2"], "however few rows a window has"
    assert half.members(TIMES["test"]).tolist() == [1] * 5 + [2] * 5
    past = column_shift(ShiftConfig(name="t", kind="time", by="when", cut="2024-01-13", windows=2), TIMES, ["test"])
    assert names(past) == ["past", "window 1", "window 2"] and past.shares().tolist() == [1, 0, 0]
    assert [past.coordinate(name) for name in past.names] == [0, 0.5, 1]
    assert past.members(TIMES["train"]).tolist() == [0] * 10
    assert past.members(TIMES["test"]).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cut": "last year"}, r"shift\.cut: 'last year' is neither"),
        ({"cut": "2030-01-01"}, r"shift\.cut: 2030-01-01 leaves no row after it"),
        ({"windows": 11, "cut": "2024-01-13"}, r"shift\.windows: 11 windows need"),
    ],
)
def test_cuts_that_leave_nothing_are_refused(settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        column_shift(
            ShiftConfig(**({"name": "t", "kind": "time", "by": "when", "min_rows": 1} | settings)), TIMES, ["test"]
        )


def test_dates_in_every_common_form_are_one_second() -> None:
    iso = ["2024-05-31T12:00:00+00:00", "2024-05-31 12:00:00", "2024-05-31T14:00:00+02:00"]
    assert set(seconds(np.array([*iso, "1717156800", "1717156800000.0"]), "when")) == {1717156800.0}
    with pytest.raises(ConfigError, match=r"shift\.by: train row 1 of column 'when' holds 'May', which is no date"):
        seconds(np.array(["2024-05-31", "May"]), "when", "train")


def test_new_people_are_a_share_of_the_people_and_the_same_in_every_split() -> None:
    people = [f"w{i}" for i in range(1000)]
    data = {"train": split(who=people * 2), "test": split(who=people)}
    found = column_shift(ShiftConfig(name="a", kind="annotators", by="who", held_out=0.2, min_rows=5), data, ["test"])
    assert names(found) == [SEEN, NEW] and found.shares().tolist() == [1, 0]
    train, test = (found.members(rows) for rows in data.values())
    assert (train[:1000] == train[1000:]).all() and (train[:1000] == test).all()
    assert np.mean(test == 1) == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / 1000))
    with pytest.raises(ConfigError, match=r"shift\.by: 1 rows have no 'who'"):
        column_shift(ShiftConfig(name="a", kind="annotators", by="who"), {"train": split(who=["a", ""])}, ["train"])
