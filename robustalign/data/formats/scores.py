"""``scores``: several replies of one prompt with a number each (higher is better), paired by ``dataset.pairs.rule``.

``replies`` names the list; ``text``, ``score`` and ``by`` are then read with the reply in ``reply``. It may also be a
list of ``{text: path, score: path}``, for replies in columns; without it ``text`` and ``score`` are two lists.
``by`` keeps to pairs that one person scored. Numbers and ``dataset.pairs.min_gap`` are in the data's own units.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from robustalign.config import DatasetConfig, PairsConfig
from robustalign.data.fields import Field, as_text, compile_field, number
from robustalign.data.files import BadRow, Row
from robustalign.data.formats import Fields
from robustalign.data.formats.outcome import TIE, Dropped, Outcome, comparison, turns
from robustalign.data.prompts import Turn
from robustalign.data.sources import cells
from robustalign.errors import ConfigError

REQUIRED = ("prompt",)
OPTIONAL = ("replies", "text", "score", "by")
SPECIAL = ("replies",)


def prepare(fields: Fields) -> None:
    """Compile where replies, their texts and their numbers are.

    Raises:
        ConfigError: something of these is missing.
    """
    spec, key = fields.get("replies"), "dataset.fields.replies"
    if isinstance(spec, list):
        fields["replies"] = [_columns(one, f"{key}.{place}") for place, one in enumerate(spec)]
    elif spec is not None:
        fields["replies"] = compile_field(spec, key)
    for name in ("text", "score"):
        if isinstance(spec, list):
            fields[name] = compile_field(f"reply.{name}", f"dataset.fields.{name}")
        elif name not in fields:
            raise ConfigError(
                f"dataset.fields.{name}", "is missing; the format scores needs text and score of the replies"
            )
        elif spec is None:
            fields[f"{name}s"] = fields[name]
            fields[name] = compile_field(f"reply.{name}", f"dataset.fields.{name}")


def _columns(spec: Any, key: str) -> dict[str, Field]:
    if not isinstance(spec, dict) or not {"text", "score"} <= set(spec):
        raise ConfigError(key, f"{spec!r} needs text and score")
    return {name: compile_field(path, f"{key}.{name}") for name, path in spec.items()}


@dataclass(frozen=True)
class Scored:
    """A reply with its number; ``row``: what columns are read from."""

    text: tuple[Turn, ...]
    score: float
    row: Row


def read(row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
    """The pairs of a row by the rule.

    Raises:
        BadRow: a cell holds nothing, or a score is no number.
    """
    prompt = turns("dataset.fields.prompt", cells.prompt_turns, fields.value("prompt", row))
    groups: dict[str, list[Scored]] = {}
    for item in _items(row, fields):
        value = _score(fields, item)
        if value is None:
            yield Dropped("no score", prompt), item
            continue
        reply = turns("dataset.fields.text", cells.reply_turns, fields.value("text", item), prompt)
        who = as_text(fields["by"](item)) if "by" in fields else ""
        groups.setdefault(who, []).append(Scored(reply, value, item))
    for who, replies in groups.items():
        if len(replies) < 2:
            yield Dropped("one reply alone", prompt), row
            continue
        rng = random.Random(f"{config.seed} {who} {prompt[-1].content}")
        for better, worse in _pairs(replies, config.pairs, rng):
            if better.score == worse.score:
                yield Dropped(TIE, prompt), better.row
            elif abs(better.score - worse.score) <= config.pairs.min_gap:
                yield Dropped("small gap", prompt), better.row
            else:
                yield comparison(prompt, better.text, worse.text), {**better.row, "other": worse.row.get("reply")}


def _pairs(replies: Sequence[Scored], rule: PairsConfig, rng: random.Random) -> Iterator[tuple[Scored, Scored]]:
    if rule.rule == "all":
        for a, b in itertools.combinations(replies, 2):
            yield (a, b) if a.score >= b.score else (b, a)
    elif rule.rule == "argmax":
        yield max(replies, key=lambda r: r.score), min(replies, key=lambda r: r.score)
    else:
        yield from _at_random(replies, rule, rng)


def _at_random(replies: Sequence[Scored], rule: PairsConfig, rng: random.Random) -> Iterator[tuple[Scored, Scored]]:
    """``rule.per_prompt`` draws, each pair once."""
    pairs_so_far: set[tuple[int, int]] = set()
    for _ in range(rule.per_prompt):
        places = rng.sample(range(len(replies)), min(2 if rule.rule == "bradley_terry" else rule.m, len(replies)))
        best = max(places, key=lambda i: replies[i].score)
        worst = min(places, key=lambda i: replies[i].score)
        if rule.rule == "bradley_terry":
            gap = replies[places[0]].score - replies[places[1]].score
            first_wins = rng.random() < 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, gap / rule.temperature))))
            best, worst = places if first_wins else places[::-1]
        if (best, worst) not in pairs_so_far:
            pairs_so_far.add((best, worst))
            yield replies[best], replies[worst]


def _items(row: Row, fields: Fields) -> Iterator[dict[str, Any]]:
    """The row once for each reply, which stands in ``reply``."""
    spec = fields.get("replies")
    if isinstance(spec, list):
        for place, one in enumerate(spec):
            yield {**row, "reply": {"place": place, **{name: field(row) for name, field in one.items()}}}
        return
    if spec is not None:
        yield from ({**row, "reply": reply} for reply in _list(row, fields, "replies"))
        return
    texts, scores = (_list(row, fields, name) for name in ("texts", "scores"))
    if len(texts) != len(scores):
        raise BadRow("dataset.fields.score", f"holds {len(scores)} numbers for {len(texts)} replies")
    for place, (text, score) in enumerate(zip(texts, scores, strict=True)):
        yield {**row, "reply": {"place": place, "text": text, "score": score}}


def _list(row: Row, fields: Fields, name: str) -> list[Any]:
    value = fields.value(name, row)
    if not isinstance(value, list):
        raise BadRow(fields[name].key, f"holds {str(value)[:40]!r} where a list is expected (one of each reply)")
    return value


def _score(fields: Fields, item: Row) -> float | None:
    value = fields["score"](item)
    try:
        return None if value in (None, "") else number(value)
    except ValueError as error:
        raise BadRow("dataset.fields.score", str(error)) from error
