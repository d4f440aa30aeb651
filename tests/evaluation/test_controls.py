"""Controls and the columns of tables that name them."""

from __future__ import annotations

import pytest

from robustalign.evaluation.controls import REFERENCE, TRAINED, Kind, at_step, read_control, shrunk


@pytest.mark.parametrize(
    ("control", "text", "step"),
    [
        (TRAINED, "policy", 80),
        (at_step(20, 80), "policy", 20),
        (at_step(0, 80), "policy", 0),
        (at_step(80, 80), "policy", 80),
        (shrunk(0.5), "shrink_0.5", 80),
        (shrunk(1 / 3), "shrink_0.333333333333333", 80),
        (shrunk(0.0), "shrink_0", 80),
        (REFERENCE, "reference", 0),
    ],
)
def test_columns_name_a_control_and_are_read_back(control, text, step) -> None:
    assert (str(control), control.step_of(80)) == (text, step)
    again = read_control(text, step, 80)
    assert (again.kind, again.step) == (control.kind, control.step)
    assert again.factor == pytest.approx(control.factor, rel=1e-14)


def test_the_last_step_is_the_trained_policy() -> None:
    assert at_step(80, 80) == TRAINED and at_step(79, 80).kind is Kind.STEP
    assert read_control("policy") == TRAINED


@pytest.mark.parametrize("text", ["", "Policy", "shrink_", "shrink_half", "step_3"])
def test_what_names_no_control_is_refused(text) -> None:
    with pytest.raises(ValueError):
        read_control(text, 1, 80)
