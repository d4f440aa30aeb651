"""Every number that can be configured has bounds, and what lies outside is refused by the key's name in one line."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from robustalign.bounds import Interval, OneOf, argument_problems, inside, problem, problems
from robustalign.config import Config, config_dir
from robustalign.errors import ConfigError
from robustalign.objectives import LOSSES, SETS
from robustalign.sweeps.backends.local import LocalPool
from robustalign.sweeps.backends.slurm import SlurmArray
from robustalign.training.objective import Objective, build_objective
from tests.conftest import compose_config


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union, those of a list's items among them."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is list:
        return tuple(kind for one in typing.get_args(hint) for kind in alternatives(one))
    return (hint,)


def numeric(kind: type, prefix: str) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Every field that may hold a number, below ``kind`` too."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from numeric(hint, f"{prefix}{field.name}.")
        elif field.init and {int, float} & set(alternatives(hint)):
            yield prefix + field.name, field, hint


SCHEMA = {key: (field, hint) for key, field, hint in numeric(Config, "")}
METHOD = {
    (name, key): (field, hint) for name, kind in {**LOSSES, **SETS}.items() for key, field, hint in numeric(kind, "")
}
LAUNCHER = {
    (kind.__name__, key): (field, hint) for kind in (LocalPool, SlurmArray) for key, field, hint in numeric(kind, "")
}
WORDS = {"partition", "account", "qos", "constraint", "exclude", "mem", "time"}  # texts that may look like numbers


def test_every_number_has_bounds() -> None:
    assert len(SCHEMA) > 40 and len(METHOD) > 25 and len(LAUNCHER) > 8
    free = [key for key, (field, _) in {**SCHEMA, **METHOD, **LAUNCHER}.items() if "allowed" not in field.metadata]
    assert {key[1] if isinstance(key, tuple) else key for key in free} <= WORDS


def outside(field: dataclasses.Field, hint: Any) -> list[Any]:
    """NaN, infinities, both sides of the interval, and values of other types."""
    interval = field.metadata["allowed"]
    low, high = interval.ends
    values: list[Any] = [math.nan, -math.inf, "many", True, low - 1]
    values += [] if interval.text.endswith("inf]") else [math.inf]
    values += [low] if interval.text.startswith("(") else []
    values += [high + 1] if math.isfinite(high) else []
    values += [high] if math.isfinite(high) and interval.text.endswith(")") else []
    values += [low + 0.5] if float not in alternatives(hint) else []
    return [[value] for value in values] if "list[" in str(hint) else values


def put(holder: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for name in parents:
        holder = getattr(holder, name)
    setattr(holder, last, value)


@pytest.fixture(scope="module")
def config() -> Config:
    return compose_config()


@pytest.mark.parametrize("key", SCHEMA)
def test_the_schema_refuses_by_name(config: Config, key: str) -> None:
    for value in outside(*SCHEMA[key]):
        changed = copy.deepcopy(config)
        put(changed, key, value)
        found = dict(problems(changed))
        assert list(found) == [key], f"{value!r} is taken"
        assert len(found[key].splitlines()) == 1


def complete(x: str, /, **changes: Any) -> dict[str, Any]:
    """A method of this loss or set whose other keys are those of a preset that uses it."""
    from omegaconf import OmegaConf

    kind, known = ("loss", LOSSES) if x in LOSSES else ("set", SETS)
    for file in sorted((config_dir() / "method").glob("*.yaml")):
        method = OmegaConf.to_container(OmegaConf.load(file))
        method.pop("defaults", None)
        if method[kind] == x:
            return method | changes
    needed = {f.name: 0.5 for f in dataclasses.fields(known[x]) if f.default is dataclasses.MISSING}
    return {"name": x, "loss": "sigmoid", "set": "nominal", "beta": 0.1, kind: x} | needed | changes


@pytest.mark.parametrize(("name", "key"), METHOD)
def test_losses_and_sets_refuse_by_name(name: str, key: str) -> None:
    field, hint = METHOD[name, key]
    others = {"radius": None} if (name, key) == ("kl", "temperature") else {}
    others |= {"temperature": None} if (name, key) == ("kl", "radius") else {}
    build_objective(complete(name))
    for value in outside(field, hint):
        with pytest.raises(ConfigError) as error:
            build_objective(complete(name, **{**others, key: value}))
        assert error.value.key == f"method.{key}", value


@pytest.mark.parametrize(("name", "key"), [pair for pair in LAUNCHER if pair[1] not in WORDS])
def test_launchers_refuse_by_name(name: str, key: str) -> None:
    from robustalign.sweeps.hydra import _with_options

    field, hint = LAUNCHER[name, key]
    for value in outside(field, hint):
        with pytest.raises(ConfigError) as error:
            _with_options({"LocalPool": LocalPool, "SlurmArray": SlurmArray}[name], {key: value})
        assert error.value.key == f"hydra.launcher.{key}", value


@pytest.mark.parametrize("limit", [0, -5, "-5", "1:", "later", "0:00:00", "1-", True, 1.5, math.nan])
def test_a_time_limit_is_a_time(limit: Any) -> None:
    from robustalign.sweeps.hydra import _with_options

    with pytest.raises(ConfigError) as error:
        _with_options(SlurmArray, {"time": limit})
    assert error.value.key == "hydra.launcher.time"


@pytest.mark.parametrize(
    ("key", "value"), [("name", ""), ("name", 3), ("oracle", "no"), ("target", 3), ("scope", "epoch"), ("scope", None)]
)
def test_the_common_keys_of_a_method_are_typed(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        build_objective(complete("sigmoid", **{key: value}))
    assert error.value.key == f"method.{key}"
    assert {field.name for field in dataclasses.fields(Objective)} >= {key}


def test_no_word_is_empty(config: Config) -> None:
    """Every text of the schema: an empty one is refused, whatever the key."""
    texts = 0

    def walk(kind: type, prefix: str) -> None:
        nonlocal texts
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(hints[field.name]):
                walk(hints[field.name], f"{prefix}{field.name}.")
            elif str in alternatives(hints[field.name]):
                key, empty = prefix + field.name, ["", "  "]
                for value in [empty] if typing.get_origin(hints[field.name]) is list else empty:
                    changed = copy.deepcopy(config)
                    put(changed, key, value)
                    assert [found for found, _ in problems(changed)] == [key], value
                texts += 1

    walk(Config, "")
    assert texts > 25


OVERRIDES = {
    "evaluation.steps=[[3]]": "evaluation.steps",
    "evaluation.steps=[200]": "evaluation.steps",
    "evaluation.splits=[test,test]": "evaluation.splits",
    "shift.objectives=[[joy]]": "shift.objectives",
    "shift.nominal=[true,false]": "shift.nominal",
    "shift.nominal=null": "shift.nominal",
    "shift.nominal=nan": "shift.nominal",
    "shift.targets=3": "shift.targets",
    "+shift.targets.x=nan": "shift.targets.x",
    "reward.joy=null": "reward.joy",
    "reward.joy=3": "reward.joy",
    "reward.joy.emotion=nan": "reward.joy.emotion",
    "tracking.experiment=''": "tracking.experiment",
    "paths.cache=''": "paths.cache",
    "dataset.pairs.m=9": "dataset.pairs.m",
    "trainer.micro_batch_size=65": "trainer.micro_batch_size",
    "model.path=./nowhere": "model.path",
    "model.path=some/where/else": "model.path",
    "dataset=preferences": "dataset.path",
    "~trainer": "trainer",
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_what_keys_are_to_each_other(override: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose_config(override)
    assert error.value.key == OVERRIDES[override]


def test_intervals_are_read_as_written() -> None:
    closed, half, endless = Interval("[0, 1]"), Interval("(0, 1)"), Interval("(0, inf]")
    assert 0 in closed and 1 in closed and -1e-9 not in closed
    assert 0 not in half and 1 not in half and 0.5 in half
    assert math.inf in endless and 0 not in endless and math.inf not in Interval("[0, inf)")
    assert Interval("[0, inf)", "0 is DPO").problem(-1) == "-1 is below 0; 0 is DPO"
    assert OneOf(("a", "b")).problem("c") == "unknown value 'c'; choose one of: a, b"


def test_arguments_of_a_function_are_fields_too() -> None:
    def build(assets: str, rate: Annotated[float, Interval("(0, 1]")], words: list[str], n: int = 1) -> None: ...

    good = {"rate": 0.5, "words": ["a"]}
    assert list(argument_problems(build, good, "assets")) == []
    assert [key for key, _ in argument_problems(build, {"rate": 0.0, "words": [3], "n": 1.5}, "assets")] == [
        "rate", "words", "n",
    ]  # fmt: skip
    assert dict(argument_problems(build, {"words": ["a"], "ratio": 1}, "assets")) == {
        "ratio": "unknown option; known: n, rate, words",
        "rate": "is missing",
    }


def test_types_are_told_in_words() -> None:
    assert problem("x", int) == "'x' is not a whole number"
    assert problem(None, float | int) == "null is not a number or a whole number"
    assert problem([1, "x"], list[int]) == "[1, 'x'] is not a list, each a whole number"
    assert problem(math.inf, Any) == "inf is not finite"
    assert inside("[0, 1]")["allowed"].problem(0.5) is None


@pytest.mark.parametrize("name", ["emotions", "lexical", "classifier", "armorm", "relevance"])
def test_options_of_scorers_refuse_by_name(name: str) -> None:
    from robustalign.rewards import check_options, scorer_module

    hints = typing.get_type_hints(scorer_module("x", {"scorer": name}).build, include_extras=True)
    good = {"scorer": name, "path": "org/model", "emotion": "joy", "measure": "ask"}
    good = {key: value for key, value in good.items() if key in hints or key == "scorer"}
    check_options("x", good)
    for key, hint in hints.items():
        if key in ("assets", "return"):
            continue
        bad = [math.nan, math.inf, True, ""] if key != "label" else [math.nan, math.inf, ""]
        bad += [0, -1] if int in alternatives(typing.get_args(hint)[0] if typing.get_args(hint) else hint) else []
        for value in bad if key != "label" else bad[:3]:
            with pytest.raises(ConfigError) as error:
                check_options("x", good | {key: value})
            assert error.value.key == f"reward.x.{key}", value
