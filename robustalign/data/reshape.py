"""Transforms rows before a format reads them: side tables, threads of messages, rows that belong together.

``dataset.join``     ``{survey: {path: survey.jsonl, key: user_id, column: user_id}}``: the row of a side table by name.
``dataset.thread``   rows are messages that answer one another: ``thread`` holds what was said before each.
``dataset.turns``    a row is a conversation with several replies a turn: it becomes a row a turn.
``dataset.gather``   rows of a split that share a value become one row, whose ``rows`` are they all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robustalign.config import DatasetConfig
from robustalign.data.fields import Field, as_text, compile_field, get
from robustalign.data.files import BadRow, LeftOut, Part, Row, is_local, parts
from robustalign.errors import ConfigError, choices

Located = tuple[str, "Row | BadRow"]  # where a row stands ('data.csv row 7'), and the row
Step = Callable[[Iterable[Located]], Iterator[Located]]


# ---------------------------------------------------------------- side tables


def join_parts(config: DatasetConfig) -> dict[str, list[Part]]:
    """The side tables by name. A relative path is looked for beside the data first.

    Raises:
        ConfigError: one is not there, or lacks a key.
    """
    tables = {}
    for name, spec in config.join.items():
        key = f"dataset.join.{name}"
        spec = _options(spec, key, ("path", "beside", "key", "column", "subset", "split"), required=("path", "key"))
        beside = _beside(config.path, str(spec.get("beside") or spec["path"])) or str(spec["path"])
        tables[name] = parts(beside, key=f"{key}.path", subset=spec.get("subset"), revision=config.revision)
        if split := spec.get("split"):
            tables[name] = [part for part in tables[name] if part.split == split]
    return tables


def joiner(name: str, spec: Mapping[str, Any], side: Sequence[Part]) -> Step:
    """Rows with the row of a side table under ``name`` (None where it has none).

    Raises:
        ConfigError: the side table has no such column, or one value twice.
    """
    key, on = f"dataset.join.{name}", str(spec.get("column") or spec["key"])
    key_of = compile_field(spec["key"], f"{key}.key")
    table: dict[str, Row] = {}
    for part in side:
        if on.split(".")[0] not in part.columns():
            raise ConfigError(f"{key}.column", f"{part.file} has no column {on!r}; it has: {choices(part.columns())}")
        for number, row in enumerate(part.read(), 1):
            if isinstance(row, BadRow):
                raise ConfigError(f"{key}.path", f"{part.file} row {number} {row.problem}")
            value = as_text(get(row, on.split(".")))
            if value in table and table[value] != row:
                raise ConfigError(f"{key}.column", f"{part.file} row {number}: {on}={value!r} stands in several rows")
            table[value] = row

    def step(rows: Iterable[Located]) -> Iterator[Located]:
        rows_read = matches = 0
        for where, row in rows:
            if isinstance(row, BadRow):
                yield where, row
                continue
            partner = table.get(as_text(key_of(row)))
            rows_read, matches = rows_read + 1, matches + (partner is not None)
            yield where, {**row, name: partner}
        if rows_read and not matches:
            raise ConfigError(
                f"{key}.key", f"none of {rows_read:,} rows has a {spec['key']!r} that is a {on!r} of the side table"
            )

    return step


def _beside(path: Any, side: str) -> str | None:
    """A file beside the data, where both are on this machine."""
    first = path
    while isinstance(first, Mapping | list):
        first = next(iter(first.values() if isinstance(first, Mapping) else first), "")
    if not first or not is_local(str(first)) or Path(side).expanduser().is_absolute():
        return None
    home = Path(str(first)).expanduser()
    beside = (home if home.is_dir() else home.parent) / side
    return str(beside) if beside.exists() else None


# ---------------------------------------------------------------- rows into rows


def steps(config: DatasetConfig, side: Mapping[str, Sequence[Part]]) -> list[Step]:
    """Everything that the config does to rows before its format reads them, in order."""
    steps = [joiner(name, config.join[name], table) for name, table in side.items()]
    if config.thread:
        steps.append(_thread(config.thread))
    if config.where:
        steps.append(_where(config.where))
    if config.turns:
        steps.append(_turns(config.turns))
    if config.gather:
        steps.append(_gather(compile_field(config.gather, "dataset.gather")))
    return steps


def fields(config: DatasetConfig) -> list[Field]:
    """What the steps read of a row."""
    specs = [(spec["key"], f"join.{name}.key") for name, spec in config.join.items()]
    specs += [(path, f"where.{path}") for path in config.where]
    specs += [
        (config.thread[name], f"thread.{name}")
        for name in ("id", "parent", "role", "content")
        if config.thread.get(name)
    ]
    specs += [(config.gather, "gather")] if config.gather else []
    if "names" in config.turns:
        paths = [config.turns["prompt"], config.turns["best"], *config.turns["replies"].values()]
        specs += [(str(path).replace("{}", str(name)), "turns") for name in config.turns["names"][:1] for path in paths]
    elif config.turns:
        specs.append((config.turns["list"], "turns.list"))
    return [compile_field(spec, f"dataset.{key}") for spec, key in specs]


def derived_columns(config: DatasetConfig) -> set[str]:
    """The names that the steps add to a row."""
    added = {"_file", "_split", *config.join}
    if config.thread or config.turns:
        added.add("thread")
    return added | ({"rows"} if config.turns or config.gather else set())


def _where(conditions: Mapping[str, Any]) -> Step:
    """The rows whose fields hold one of the values named."""
    allowed_values = [
        (
            compile_field(path, f"dataset.where.{path}"),
            {as_text(v) for v in (value if isinstance(value, list) else [value])},
        )
        for path, value in conditions.items()
    ]

    def step(rows: Iterable[Located]) -> Iterator[Located]:
        for where, row in rows:
            if isinstance(row, BadRow) or all(as_text(field(row)) in values for field, values in allowed_values):
                yield where, row
            else:
                yield where, LeftOut("dataset.where", "left out by dataset.where", row)

    return step


def _thread(spec: Mapping[str, Any]) -> Step:
    spec = _options(
        spec, "dataset.thread", ("id", "parent", "role", "content", "roles"), required=("id", "parent", "content")
    )
    ids, parent, content_of = (
        compile_field(spec[name], f"dataset.thread.{name}") for name in ("id", "parent", "content")
    )
    role = compile_field(spec.get("role") or {"text": "user"}, "dataset.thread.role")
    names = spec.get("roles") or {}

    def step(rows: Iterable[Located]) -> Iterator[Located]:
        all_rows, messages = list(rows), {}
        for _, row in all_rows:
            if not isinstance(row, BadRow):
                speaker = as_text(role(row))
                message = {"role": names.get(speaker, speaker), "content": content_of(row)}
                messages[as_text(ids(row))] = (as_text(parent(row)), message)
        for where, row in all_rows:
            if not isinstance(row, BadRow):
                try:
                    row = {**row, "thread": _before(as_text(parent(row)), messages)}
                except ValueError as error:
                    row = BadRow("dataset.thread.parent", str(error))
            yield where, row

    return step


def _before(message: str, messages: Mapping[str, tuple[str, dict]]) -> list[dict]:
    """From the first message of a thread to this one.

    Raises:
        ValueError: one is not there, or they answer one another in a circle.
    """
    turns: list[dict] = []
    while message:
        if message not in messages:
            raise ValueError(f"names {message!r}, which is the id of no row")
        if len(turns) == len(messages):
            raise ValueError("leads back to the row itself")
        message, turn = messages[message]
        turns.append(turn)
    return turns[::-1]


def _gather(field: Field) -> Step:
    """Rows of one value as one: its first row's fields, and all rows in ``rows``, where the first of them stands.

    Rows may stand anywhere, so all are held, as JSON, until the last was read.
    """

    def step(rows: Iterable[Located]) -> Iterator[Located]:
        groups: dict[str, tuple[str, list[str]]] = {}
        for where, row in rows:
            if isinstance(row, BadRow):
                yield where, row
                continue
            value = as_text(field(row))
            if not value:
                yield where, BadRow(field.key, f"{' and '.join(field.paths)} holds nothing to put rows together by")
                continue
            groups.setdefault(f"{row['_split']}\0{value}", (where, []))[1].append(json.dumps(row, default=str))
        while groups:
            where, members = groups.pop(next(iter(groups)))
            together = [json.loads(text) for text in members]
            yield where, {**together[0], "rows": together}

    return step


def _turns(spec: Mapping[str, Any]) -> Step:
    """Rows that are conversations to a row a turn: ``thread`` (what was said before) and ``rows`` (its replies)."""
    turns_of = _turns_in_columns(spec) if "names" in spec else _turns_in_a_list(spec)

    def step(rows: Iterable[Located]) -> Iterator[Located]:
        for where, row in rows:
            if isinstance(row, BadRow):
                yield where, row
                continue
            thread: list[dict] = []
            turns = list(turns_of(row))
            if not turns:
                yield where, LeftOut("dataset.turns", "conversation without a turn", row)
            for turn, questions, replies, best in turns:
                thread = [*thread, *({"role": "user", "content": text} for text in questions)]
                yield f"{where} turn {turn}", {**row, "thread": thread, "rows": replies}
                if best is None:
                    break  # the reply with which the conversation went on is not known
                thread = [*thread, {"role": "assistant", "content": best}]

    return step


TurnOf = tuple[str, list[Any], list[dict[str, Any]], Any]  # its name, what was asked, the replies, the best one's text


def _turns_in_a_list(spec: Mapping[str, Any]) -> Callable[[Row], Iterator[TurnOf]]:
    """Messages in one list, each with the number of its turn."""
    options = ("list", "turn", "role", "content", "best", "user")
    spec = _options(spec, "dataset.turns", options, required=("list", "turn", "content", "best"))
    names = {key: str(spec.get(key) or key).split(".") for key in options}
    user = str(spec.get("user") or "user")

    def read(row: Row) -> Iterator[TurnOf]:
        by_turn: dict[Any, list[dict[str, Any]]] = {}
        for message in get(row, names["list"]) or []:
            by_turn.setdefault(get(message, names["turn"]), []).append(message)
        for turn, in_turn in by_turn.items():
            questions = [get(m, names["content"]) for m in in_turn if get(m, names["role"]) == user]
            replies = [m for m in in_turn if get(m, names["role"]) != user]
            best = next((get(m, names["content"]) for m in replies if get(m, names["best"])), None)
            yield as_text(turn), questions, replies, best

    return read


def _turns_in_columns(spec: Mapping[str, Any]) -> Callable[[Row], Iterator[TurnOf]]:
    """Columns for each turn: ``{}`` in their names stands for its name; ``replies``: name -> column."""
    required = ("names", "prompt", "replies", "best")
    spec = _options(spec, "dataset.turns", (*required, "remove"), required)
    if not isinstance(spec["names"], list) or not isinstance(spec["replies"], Mapping):
        raise ConfigError("dataset.turns", "names is a list of turns, and replies a mapping of names to columns")
    replies = {str(name): str(path) for name, path in spec["replies"].items()}
    unwanted = spec.get("remove") or "(?!)"  # matches nothing

    def read(row: Row) -> Iterator[TurnOf]:
        for turn in map(str, spec["names"]):

            def at(path: str, turn: str = turn) -> Any:
                value = get(row, path.replace("{}", turn).split("."))
                return re.sub(unwanted, "", value) if isinstance(value, str) else value

            question, best = at(str(spec["prompt"])), at(str(spec["best"]))
            if not question:
                return
            texts = {name: text for name, path in replies.items() if (text := at(path))}
            candidates = [{"name": name, "text": text, "best": name == best} for name, text in texts.items()]
            yield turn, [question], candidates, texts.get(str(best))

    return read


def _options(spec: Any, key: str, options: Sequence[str], required: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(spec, Mapping):
        raise ConfigError(key, f"{spec!r} is no mapping; it has: {choices(options)}")
    for name in spec:
        if name not in options:
            raise ConfigError(f"{key}.{name}", f"unknown key; there are: {choices(options)}")
    for name in required:
        if spec.get(name) in (None, ""):
            raise ConfigError(f"{key}.{name}", "is missing")
    return spec
