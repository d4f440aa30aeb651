"""Where in a row a value stands: the small language of ``dataset.fields``, ``dataset.columns`` and ``dataset.where``.

A field is a *path* (``survey.age``, ``answers.0.text``), a *template* (``Translate: {source}``), or a mapping:

==========  ==========================================================================================================
field       a path
any         several fields; the first that holds something
text        a template, or a constant
zip         two lists, what the user said and what was answered, as one list of turns
json        ``true``: the cell is text that holds JSON
at          a path; its value is the name that is looked up in the field (``field: translations, at: rating.system``)
markers     text to turns: ``{"\\n\\nHuman:": user, "\\n\\nAssistant:": assistant}``; what stands before is the user's
remove      a regular expression whose matches are taken out of the text
times       a number that a number is multiplied by (-1 turns a penalty into a score)
until       a path to a number n: the turns up to the assistant's n-th
map         value -> other value, or a template; what it does not name stays
bins        edges: a number becomes the name of its bin (``[0, 35, 55]``: ``0-35``, ``35-55``, ``55+``)
==========  ==========================================================================================================

A path takes the longest name that a mapping has (names may hold dots), a number as a place in a list, reads JSON in a
cell that it goes through, and gathers over a list that it names something of.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustalign.data import strict_json
from robustalign.data.files import BadRow, Row
from robustalign.errors import ConfigError, choices

KEYS = ("field", "any", "text", "zip", "json", "at", "until", "markers", "remove", "times", "map", "bins")
_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Field:
    """A compiled field. ``key``: of the config; ``paths``: what it reads; ``read``: row to value (None: nothing)."""

    key: str
    paths: tuple[str, ...]
    read: Callable[[Row], Any]

    def __call__(self, row: Row) -> Any:
        """The value.

        Raises:
            BadRow: the cell cannot be read as the field says.
        """
        try:
            return self.read(row)
        except ValueError as error:
            raise BadRow(self.key, str(error)) from error


def compile_field(spec: Any, key: str) -> Field:
    """The reader of a field.

    Raises:
        ConfigError: it is no field.
    """
    if isinstance(spec, str):
        return _template(spec, key) if _PLACE.search(spec) else _path(spec, key)
    if not isinstance(spec, Mapping) or not {"field", "any", "text", "zip"} & set(spec):
        raise ConfigError(
            key, f"{spec!r} is no field; write a path, a template with {{path}}, or a mapping with field:"
        )
    unknown = sorted(set(map(str, spec)) - set(KEYS))
    if unknown:
        raise ConfigError(f"{key}.{unknown[0]}", f"unknown key; a field has: {choices(KEYS)}")
    for name in ("any", "zip"):
        if name in spec and not isinstance(spec[name], list | tuple):
            raise ConfigError(f"{key}.{name}", f"{spec[name]!r} is no list of fields")
    for name in ("field", "text"):
        if name in spec and not isinstance(spec[name], str | int | float):
            raise ConfigError(f"{key}.{name}", f"{'null' if spec[name] is None else repr(spec[name])} is not text")
    if "any" in spec:
        base = _any([compile_field(one, key) for one in spec["any"]], key)
    elif "zip" in spec:
        base = _zip([compile_field(one, key) for one in spec["zip"]], key)
    elif "text" in spec:
        base = _template(str(spec["text"]), key)
    else:
        base = _path(str(spec["field"]), key)
    for name in ("json", "at", "markers", "until", "remove", "times", "map", "bins"):
        if name in spec and spec[name] is not False:
            base = _then(base, name, spec[name], key)
    return base


def get(row: Any, path: Sequence[str]) -> Any:
    """What a path leads to; None where it leads nowhere."""
    if not path:
        return row
    if isinstance(row, str) and row[:1] in ("[", "{"):
        row = parse_json(row)
    if isinstance(row, Mapping):
        for end in range(len(path), 0, -1):
            name = ".".join(path[:end])
            if name in row:
                return get(row[name], path[end:])
        return None
    if isinstance(row, Sequence) and not isinstance(row, str):
        if path[0].lstrip("-").isdigit():
            place = int(path[0])
            return get(row[place], path[1:]) if -len(row) <= place < len(row) else None
        return [get(one, path) for one in row]
    return None


def parse_json(text: str) -> Any:
    """JSON in a cell.

    Raises:
        ValueError: it does not parse.
    """
    try:
        return strict_json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"holds JSON that does not parse ({error.msg} at character {error.pos + 1}): {text[:40]!r}"
        ) from None
    except ValueError as error:
        raise ValueError(f"holds JSON that cannot be read ({error}): {text[:40]!r}") from None


def number(value: Any) -> float:
    """A number, also from text.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float("nan") if value is None else float(value if isinstance(value, int | float) else str(value))
    except OverflowError:
        raise ValueError("holds a number of more than 300 digits") from None
    except ValueError:
        raise ValueError(f"holds {str(value)[:40]!r} where a number is expected") from None
    if not math.isfinite(number):
        raise ValueError(f"holds {value!r} where a finite number is expected")
    return number


def is_nothing(value: Any) -> bool:
    """Whether a cell holds nothing: None, an empty cell of a CSV file, or the NaN that tables of numbers hold there."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _path(path: str, key: str) -> Field:
    names = path.split(".")
    if len(names) == 1:
        return Field(key, (path,), lambda row: row.get(path))
    return Field(key, (path,), lambda row: get(row, names))


def _template(text: str, key: str) -> Field:
    paths = tuple(_PLACE.findall(text))
    parts = {path: path.split(".") for path in paths}

    def fill(row: Row) -> str:
        def one(match: re.Match[str]) -> str:
            value = get(row, parts[match[1]])
            if value is None:
                raise ValueError(f"{match[1]!r} of the template holds nothing")
            if not isinstance(value, str | int | float):
                raise ValueError(f"{match[1]!r} of the template holds {type(value).__name__}, not text")
            return str(value)

        return _PLACE.sub(one, text)

    return Field(key, paths, fill)


def _any(fields: Sequence[Field], key: str) -> Field:
    def read(row: Row) -> Any:
        return next((value for value in (_or_nothing(field, row) for field in fields) if not is_nothing(value)), None)

    return Field(key, tuple(path for field in fields for path in field.paths), read)


def _or_nothing(field: Field, row: Row) -> Any:
    try:
        return field.read(row)
    except ValueError:
        return None


def _zip(fields: Sequence[Field], key: str) -> Field:
    if len(fields) != 2:
        raise ConfigError(f"{key}.zip", f"needs the user's turns and the answers, not {len(fields)} fields")

    def read(row: Row) -> Any:
        lists = [field.read(row) for field in fields]
        questions, answers = (parse_json(v) if isinstance(v, str) and v[:1] == "[" else v for v in lists)
        for turns in (questions, answers):
            if not isinstance(turns, list):
                raise ValueError(f"holds {str(turns)[:40]!r} where a list of turns is expected")
        if len(questions) != len(answers):
            raise ValueError(f"holds {len(questions)} turns of the user and {len(answers)} answers")
        pairs = zip(questions, answers, strict=True)
        return [{"role": r, "content": c} for both in pairs for r, c in zip(("user", "assistant"), both, strict=True)]

    return Field(key, tuple(path for field in fields for path in field.paths), read)


def _then(base: Field, name: str, option: Any, key: str) -> Field:
    """A field whose value goes through one more step; nothing stays nothing."""
    make: dict[str, Callable[[Any, str], Step]] = {
        "until": _until,
        "at": _at,
        "markers": _markers,
        "remove": _remove,
        "times": _times,
        "map": _map,
        "bins": _bins,
        "json": _json,
    }
    step = make[name](option, key)
    paths = (*base.paths, str(option)) if name in ("at", "until") else base.paths

    def read(row: Row) -> Any:
        value = base.read(row)
        return None if is_nothing(value) else step(value, row)

    return Field(key, paths, read)


Step = Callable[[Any, Row], Any]


def _json(option: Any, key: str) -> Step:
    return lambda value, row: parse_json(value) if isinstance(value, str) else value


def _at(option: Any, key: str) -> Step:
    names = str(option).split(".")

    def look_up(value: Any, row: Row) -> Any:
        name = get(row, names)
        return value.get(name) if isinstance(value, Mapping) else get(value, [str(name)])

    return look_up


def _until(option: Any, key: str) -> Step:
    names = str(option).split(".")

    def keep(value: Any, row: Row) -> Any:
        answers, last = 0, number(get(row, names))
        for place, turn in enumerate(value if isinstance(value, list) else []):
            answers += isinstance(turn, Mapping) and turn.get("role", turn.get("from")) in ("assistant", "gpt")
            if answers == last:
                return value[: place + 1]
        return value

    return keep


def _remove(option: Any, key: str) -> Step:
    try:
        pattern = re.compile(str(option))
    except re.error as error:
        raise ConfigError(f"{key}.remove", f"{option!r} is no regular expression: {error}") from error
    return lambda value, row: pattern.sub("", value) if isinstance(value, str) else value


def _times(option: Any, key: str) -> Step:
    try:
        factor = number(option)
    except ValueError:
        raise ConfigError(f"{key}.times", f"{option!r} is not a finite number") from None
    return lambda value, row: factor * number(value)


def _map(option: Any, key: str) -> Step:
    if not isinstance(option, Mapping):
        raise ConfigError(f"{key}.map", f"{option!r} is no mapping of values")
    names = {as_text(old): new for old, new in option.items()}
    filled = {old: _template(new, key) for old, new in names.items() if isinstance(new, str) and _PLACE.search(new)}

    def look_up(value: Any, row: Row) -> Any:
        name = as_text(value)
        return filled[name].read(row) if name in filled else names.get(name, value)

    return look_up


def _bins(option: Any, key: str) -> Step:
    try:
        edges = [number(edge) for edge in ([*option] if isinstance(option, list | tuple) else [None])]
    except ValueError:
        raise ConfigError(f"{key}.bins", f"{option!r} is no list of finite numbers") from None
    if not edges or edges != sorted(set(edges)):
        raise ConfigError(f"{key}.bins", f"{option!r} must rise")
    names = [f"<{edges[0]:g}", *(f"{a:g}-{b:g}" for a, b in itertools.pairwise(edges)), f"{edges[-1]:g}+"]
    return lambda value, row: names[bisect.bisect_right(edges, number(value))]


def _markers(option: Any, key: str) -> Step:
    if not isinstance(option, Mapping) or not option or "" in option:
        raise ConfigError(f"{key}.markers", f"{option!r} is no mapping from what stands before a turn to its role")
    pattern = re.compile("(" + "|".join(re.escape(str(mark)) for mark in option) + ")")
    roles = {str(mark): str(role) for mark, role in option.items()}

    def split(value: Any, row: Row) -> Any:
        if not isinstance(value, str):
            return value
        before, *rest = pattern.split(value)
        turns = [{"role": "user", "content": before}] if before.strip() else []
        for mark, content in zip(rest[::2], rest[1::2], strict=True):
            turns.append({"role": roles[mark], "content": content.removeprefix(" ")})
        return turns

    return split


def as_text(value: Any) -> str:
    """A carried value as the text that groups are named by; '' where there is none."""
    if value == [] or is_nothing(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.17g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        one = {as_text(item) for item in value}
        return one.pop() if len(one) == 1 else ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def heads(fields: Iterator[Field] | Sequence[Field]) -> Iterator[tuple[Field, str]]:
    """Each field with every path that it reads."""
    for field in fields:
        for path in field.paths:
            yield field, path
