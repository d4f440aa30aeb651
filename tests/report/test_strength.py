"""What a method's strength is, for every ambiguity set that there is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from robustalign.objectives import SETS
from robustalign.report.choose import nominal_rule
from robustalign.report.compare import Comparison
from robustalign.report.load import tidy
from robustalign.report.measures import Measures
from robustalign.report.pictures import profiles
from robustalign.report.settings import Setting, settings
from robustalign.report.strength import columns_of, has_kl_radius, strength_of
from tests.report.synthetic import records

KNOBS = [(name, knob) for name, kind in SETS.items() for knob in kind.knobs]
KNOB_IDS = [f"{name} {knob.field}" for name, knob in KNOBS]


def swept(sweep, name: str, first: dict, second: dict) -> Setting:
    """The experiment as if its two points of kldpo were two points of a method with another set."""
    changes, runs = {"kldpo tau=1": first, "kldpo tau=0.5": second}, []
    for run in records(sweep):
        if run.label in changes:
            method = {"name": f"my_{name}", "set": name, "loss": "sigmoid", "beta": 0.1, **changes[run.label]}
            run = replace(run, config={**run.config, "label": None, "method": method})
        runs.append(run)
    (setting,) = settings(runs)
    return setting


@pytest.mark.parametrize(("name", "knob"), KNOBS, ids=KNOB_IDS)
def test_a_sweep_over_any_sets_knob_has_a_profile_and_an_order(sweep, name, knob) -> None:
    setting = swept(sweep, name, {knob.field: 0.2}, {knob.field: 0.4})
    points = setting.families()[f"my_{name}"]
    weak_to_strong = [0.2, 0.4] if knob.stronger > 0 else [0.4, 0.2]
    assert [point.knob.value for point in points] == weak_to_strong
    figure = profiles(Measures(setting, draws=50))[f"my_{name}"]
    panel = figure.axes[-2]
    low, high = panel.get_xlim()
    assert (low < high) == (knob.stronger > 0), "stronger is to the right"
    assert panel.get_xlabel() == f"{knob.field} ({knob.unit})"
    frame = tidy(run for point in setting.points for run in point.runs.values())
    values = frame.loc[frame["method"] == f"my_{name}", ["knob", "knob_value"]].drop_duplicates()
    assert set(values["knob"]) == {knob.field} and sorted(values["knob_value"]) == [0.2, 0.4]
    assert frame.groupby("label", observed=True)["knob_value"].nunique().max() <= 1


def test_a_radius_of_zero_is_drawn(sweep) -> None:
    setting = swept(sweep, "tv", {"radius": 0.0}, {"radius": 0.3})
    figure = profiles(Measures(setting, draws=50))["my_tv"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "0.3"]


def test_an_infinite_temperature_is_no_point_of_a_profile(sweep) -> None:
    setting = swept(sweep, "kl", {"temperature": math.inf}, {"temperature": 0.5})
    assert [point.strength for point in setting.families()["my_kl"]] == [0.0, 2.0]
    assert "my_kl" not in profiles(Measures(setting, draws=50))


def test_several_knobs_of_one_method_are_never_put_in_one_order(sweep) -> None:
    setting = swept(sweep, "kl", {"temperature": 0.5}, {"radius": 0.1})
    comparison = Comparison(Measures(setting, draws=50))
    candidates = [comparison.dpo, *setting.families()["my_kl"]]
    chosen, why = nominal_rule(comparison, candidates, comparison.measures.metrics()[0], 10.0)
    assert chosen is None and "several knobs (radius, temperature)" in why
    assert not any(name.startswith("my_kl") for name in profiles(comparison.measures))


@pytest.mark.parametrize("name", SETS)
def test_only_a_kl_ball_has_a_kl_radius(name) -> None:
    assert has_kl_radius({"set": name}) == (name == "kl")


def test_methods_without_a_knob_have_no_strength() -> None:
    assert strength_of({"set": "nominal", "radius": 0.1}) is None
    assert strength_of({"set": "a set of another version", "radius": 0.1}) is None
    columns = columns_of({"set": "cvar", "alpha": 0.1, "beta": 0.2})
    assert (columns["knob"], columns["knob_value"], columns["beta"]) == ("alpha", 0.1, 0.2)
    assert math.isnan(columns["radius"]) and math.isnan(columns["temperature"])
