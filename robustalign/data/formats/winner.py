"""Who won: a word, a 0/1 column, a signed number, two numbers, or a column for each outcome.

``winner`` is a field (with its words by name: ``first: [A], second: [B], tie: [same], neither: [both_bad]``), or

===========  ====================================================================================================
negative     ``first`` or ``second``: which reply numbers below 0 prefer; 0 is a tie, ``neither`` lists other numbers
names        ``{first: path, second: path}``: the field holds the winner's name, these hold both names
flags        ``{first: path, second: path, tie: path}``: the column that holds 1 says it
numbers      ``{first: path, second: path}``: the larger wins
===========  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from robustalign.data.fields import Field, as_text, compile_field, number
from robustalign.data.files import BadRow, Row
from robustalign.errors import ConfigError, choices

OUTCOMES = ("first", "second", "tie", "neither")
WORDS = {
    "first": ("first", "model_a", "response_a", "answer_a", "a", "A"),
    "second": ("second", "model_b", "response_b", "answer_b", "b", "B"),
    "tie": ("tie", "equal", "same"),
    "neither": ("neither", "both_bad", "tie (bothbad)"),
}
ALLOWED = {
    "flags": ("flags",),
    "numbers": ("numbers",),
    "names": ("names", "field", "map", "json", "tie", "neither"),
    "negative": ("negative", "field", "map", "json", "neither"),
}
KEYS = ("field", "map", "json", "negative", "names", "flags", "numbers", *OUTCOMES)


class Winner:
    """Row to outcome; ``fields`` are the columns that it reads.

    Raises:
        ConfigError: the spec says nothing, or two things.
    """

    def __init__(self, spec: Any, key: str) -> None:
        self.key = key
        spec = {"field": spec} if isinstance(spec, str) else spec
        if not isinstance(spec, Mapping):
            raise ConfigError(key, f"{spec!r} does not say who won; name a column, or: {choices(KEYS)}")
        for name in spec:
            if name not in KEYS:
                raise ConfigError(f"{key}.{name}", f"unknown key; there are: {choices(KEYS)}")
        self.fields: list[Field] = []
        kinds = {"flags": self._flags, "numbers": self._numbers, "names": self._names, "negative": self._signed}
        kind = next((kind for kind in kinds if kind in spec), None)
        self._check(spec, kind)
        self._outcome: Callable[[Row], str] = kinds[kind](spec) if kind else self._words(spec)

    def __call__(self, row: Row) -> str:
        """``first``, ``second``, ``tie`` or ``neither``.

        Raises:
            BadRow: the row does not say so.
        """
        try:
            return self._outcome(row)
        except ValueError as error:
            raise BadRow(self.key, str(error)) from error

    def _check(self, spec: Mapping[str, Any], kind: str | None) -> None:
        for name in spec:
            if kind is not None and name not in ALLOWED[kind]:
                raise ConfigError(f"{self.key}.{name}", f"says nothing beside {kind} (known: {choices(ALLOWED[kind])})")
        if kind in (None, "negative"):
            return
        outcomes = OUTCOMES if kind == "flags" else ("first", "second")
        if not isinstance(spec[kind], Mapping) or not {"first", "second"} <= set(spec[kind]) <= set(outcomes):
            raise ConfigError(f"{self.key}.{kind}", f"{spec[kind]!r} is no mapping of {', '.join(outcomes)} to columns")

    def _field(self, spec: Any, name: str = "") -> Field:
        field = compile_field(spec, f"{self.key}.{name}" if name else self.key)
        self.fields.append(field)
        return field

    def _main(self, spec: Mapping[str, Any]) -> Field:
        if "field" not in spec:
            raise ConfigError(f"{self.key}.field", "is missing; name the column that says who won")
        return self._field({name: spec[name] for name in ("field", "map", "json") if name in spec})

    def _words(self, spec: Mapping[str, Any], words: Mapping[str, Any] | None = None) -> Callable[[Row], str]:
        field = self._main(spec)
        words = {name: spec[name] for name in OUTCOMES if name in spec} or WORDS
        outcomes: dict[str, str] = {}
        for name, word in ((name, _plain(word)) for name, words_of in words.items() for word in _as_list(words_of)):
            if outcomes.setdefault(word, name) != name:
                raise ConfigError(f"{self.key}.{name}", f"{word!r} already means {outcomes[word]}")

        def read(row: Row) -> str:
            value = _plain(field(row))
            if value not in outcomes:
                fix = f"{self.key}.first=[...], second, tie, neither"
                raise ValueError(f"unknown winner {value!r}; say what it means: {fix} (known: {choices(outcomes)})")
            return outcomes[value]

        return read

    def _signed(self, spec: Mapping[str, Any]) -> Callable[[Row], str]:
        field, neither = self._main(spec), {_plain(v) for v in _as_list(spec.get("neither", []))}
        below = spec["negative"]
        if below not in ("first", "second"):
            raise ConfigError(f"{self.key}.negative", f"{below!r} is neither first nor second")
        above = "second" if below == "first" else "first"

        def read(row: Row) -> str:
            value = field(row)
            if _plain(value) in neither:
                return "neither"
            strength = number(value)
            return "tie" if strength == 0 else below if strength < 0 else above

        return read

    def _names(self, spec: Mapping[str, Any]) -> Callable[[Row], str]:
        field = self._main(spec)
        both = {name: self._field(spec["names"][name], f"names.{name}") for name in ("first", "second")}
        words = {_plain(w): name for name in ("tie", "neither") for w in _as_list(spec.get(name, WORDS[name]))}

        def read(row: Row) -> str:
            value = _plain(field(row))
            won = [name for name, of in both.items() if _plain(of(row)) == value]
            if len(won) == 1:
                return won[0]
            if value in words:
                return words[value]
            names = choices(as_text(of(row)) for of in both.values())
            raise ValueError(f"unknown winner {value!r}; it names neither reply ({names})")

        return read

    def _flags(self, spec: Mapping[str, Any]) -> Callable[[Row], str]:
        flags = {name: self._field(path, f"flags.{name}") for name, path in spec["flags"].items() if name in OUTCOMES}

        def read(row: Row) -> str:
            raised = [name for name, flag in flags.items() if _plain(flag(row)) == "1"]
            if len(raised) != 1:
                raise ValueError(
                    f"{len(raised)} of the columns {', '.join(f.paths[0] for f in flags.values())} hold 1; one must"
                )
            return raised[0]

        return read

    def _numbers(self, spec: Mapping[str, Any]) -> Callable[[Row], str]:
        first, second = (self._field(spec["numbers"][name], f"numbers.{name}") for name in ("first", "second"))

        def read(row: Row) -> str:
            a, b = number(first(row)), number(second(row))
            return "tie" if a == b else "first" if a > b else "second"

        return read


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> str:
    """One spelling for 1, 1.0, '1', true and 'True'; numbers keep all their digits."""
    text = as_text(value)
    if text.lower() in ("true", "false"):
        return "1" if text.lower() == "true" else "0"
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        return f"{float(text):.17g}"
    except ValueError:
        return text
