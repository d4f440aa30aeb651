"""The identity of a run, from its config, and its name among the runs of a sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from robustalign.config import Config
from robustalign.run.folder import RunFolder

NO_PART = ("paths", "tracking", "sweep", "label")  # where to write, how to launch, what to call it
NO_RESULT = ("threads", "device", "save_steps", "save_total_limit", "save_model", "log_steps", "micro_batch_size")
NAMES_FIRST = ("model.name", "dataset.name", "shift.name")


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """The keys that decide what a run computes, as ``{"trainer.max_steps": 80, ...}``; lists are values."""
    nested = vars(config) if isinstance(config, Config) else config
    return dict(leaves({key: value for key, value in nested.items() if key not in NO_PART}))


def identity(config: Config, base: Config) -> str:
    """12 hex digits that stand for how a config differs from the base config (``conf/`` without overrides).

    A key that is added to the schema with a default changes no run's identity.
    """
    values, defaults = flat(config), flat(base)
    changed = {key: value for key, value in values.items() if key not in defaults or defaults[key] != value}
    removed = sorted(set(defaults) - set(values))
    text = json.dumps([_plain(changed), removed], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def place(runs: Path, config: Config, base: Config) -> RunFolder:
    """The folder of a run: the one it already has, or a free one.

    A folder with the same identity is another run's if its frozen config disagrees on a key that
    both know (a default of the base config was changed since); then a number is added.
    """
    name, number = identity(config, base), 1
    while True:
        folder = RunFolder(runs / (name if number == 1 else f"{name}-{number}"))
        frozen = folder.frozen()
        if frozen is None or agree(flat(frozen), flat(config)):
            return folder
        number += 1


def agree(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two flat configs have the same value wherever both have one."""
    return all(a[key] == b[key] for key in a.keys() & b.keys())


def varies(configs: Sequence[Config]) -> list[str]:
    """The runs' names, from the keys that vary: ``kldpo temperature=0.5 seed=3``.

    A key is left out where the keys before it determine its value, as the method's name determines ``method.set``.
    """
    keys = varying_keys(configs)
    short = _short(keys)
    names = []
    for config in configs:
        values = flat(config)
        parts = [f"{short[key]}={_show(values[key])}" for key in keys if values.get(key) is not None]
        names.append(" ".join([_head(config), *parts]))
    return names


def labels(configs: Sequence[Config | Mapping[str, Any]]) -> list[str]:
    """What tables call each run's point: ``label`` or the method's name, then the values of the method, of its
    groups and of the optimisation in which runs of the same name differ: ``tv radius=0.05``. Seeds share a label.
    """
    flats = [_of_point(flat(config)) for config in configs]
    indices_of: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        indices_of.setdefault(_head(config), []).append(index)
    texts = [""] * len(configs)
    for head, indices in indices_of.items():
        keys = _telling([flats[i] for i in indices], [(head,)] * len(indices))
        short = _short(keys)
        for i in indices:
            values = [f"{short[key]}={_show(flats[i][key])}" for key in keys if flats[i].get(key) is not None]
            texts[i] = " ".join([head, *values])
    return texts


def _of_point(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a point: what the runs of several seeds have in common."""
    no_result = {f"trainer.{name}" for name in NO_RESULT}
    if values.get("method.scope") == "microbatch":
        no_result.discard("trainer.micro_batch_size")
    grouped = values.get("groups.method", "none") != "none"
    parts = ("method.", "trainer.", "groups.") if grouped else ("method.", "trainer.")
    return {key: v for key, v in values.items() if key.startswith(parts) and key not in no_result}


def varying_keys(configs: Sequence[Config]) -> list[str]:
    """The keys that tell the runs of a sweep apart, beside the point's name."""
    return _telling([flat(config) for config in configs], [(_head(config),) for config in configs])


def _telling(flats: Sequence[Mapping[str, Any]], columns: list[tuple[str, ...]]) -> list[str]:
    """Keys by which all configs can be told apart that differ at all, in the order of :func:`_rank`.

    ``columns`` has, for each config, the values by which it is told apart already.
    """
    chosen = []
    for key in sorted({key for values in flats for key in values}, key=_rank):
        raw = [values.get(key) for values in flats]
        if all(type(value) is type(raw[0]) and value == raw[0] for value in raw):
            continue
        column = [_hashable(value) for value in raw]
        if len(set(zip(columns, column, strict=True))) > len(set(columns)):
            chosen.append(key)
            columns = [(*row, value) for row, value in zip(columns, column, strict=True)]
    return chosen


def _head(config: Config | Mapping[str, Any]) -> str:
    values = vars(config) if isinstance(config, Config) else config
    return str(values.get("label") or (values.get("method") or {}).get("name", "run"))


def _rank(key: str) -> tuple[int, str]:
    if key in NAMES_FIRST:
        return NAMES_FIRST.index(key), key
    if key == "seed":
        return 9, key
    return (3 if key.startswith("method.") else 4), key


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last word of each key, or the last two where another key ends the same."""
    leaves = [key.rpartition(".")[2] for key in keys]
    return {
        key: leaf if leaves.count(leaf) == 1 and leaf != "name" else ".".join(key.split(".")[-2:])
        for key, leaf in zip(keys, leaves, strict=True)
    }


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings and dataclasses."""
    for key, value in node.items():
        if is_dataclass(value):
            yield from leaves(vars(value), f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    """The value with whole floats as integers, so that equal numbers have one spelling: 1.0 is 1."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _hashable(value: Any) -> str:
    return json.dumps(_plain(value), sort_keys=True)


def _show(value: Any) -> str:
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return "[" + ",".join(_show(item) for item in value) + "]"
    return str(value)
