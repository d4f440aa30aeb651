"""Names of metrics: MLflow keeps what it can, and what it cannot tell apart is refused."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from mlflow.utils.validation import _validate_metric_name

from robustalign.checks import resolve
from robustalign.config import Config, config_dir, register
from robustalign.errors import ConfigError
from robustalign.names import check_stored, stored

ODD = ["快乐", "悲伤", "a=1", "größer-a", "joy 50:50", "α_0.5", "tab\there", "e\u0301", "{x}", "🙂", "'"]


@pytest.mark.parametrize("name", ODD)
def test_mlflow_takes_every_stored_name(name):
    _validate_metric_name(stored(f"eval/test/{name}/loss"))


def test_letters_of_every_alphabet_are_kept():
    for name in ("快乐", "悲伤", "größer-a", "α_0.5", "joy 50:50"):
        assert stored(name) == name


@pytest.mark.parametrize("names", [["a=1", "a@1"], ["x", "a_1", "a=1"], ["🙂", "🙁"]])
def test_names_that_would_be_one_are_refused_by_key(names):
    with pytest.raises(ConfigError) as error:
        check_stored("shift.targets", names)
    assert error.value.key == f"shift.targets.{names[-1]}"
    assert repr(names[-1]) in error.value.problem


@pytest.mark.parametrize("name", ["", " ", "/a", "a/", "a//b", "../a", "a/../b", "./a", "x" * 300])
def test_names_that_are_no_part_of_a_path_are_refused(name):
    with pytest.raises(ConfigError, match="part of a metric's name"):
        check_stored("shift.targets", [name])


def resolved(targets: dict[str, float]) -> Config:
    """A config with these targets, which a yaml may hold and an override may not."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("config")
    composed.shift.targets = targets
    return resolve(composed)


def test_a_config_with_odd_letters_is_taken_and_one_whose_names_collide_is_not():
    assert {"快乐", "悲伤"} <= set(resolved({"快乐": 0.1, "悲伤": 0.2}).shift.targets)
    with pytest.raises(ConfigError, match=r"shift\.targets\.a"):
        resolved({"a=1": 0.1, "a@1": 0.2})
