"""Guesses the format of a file, its fields and the columns worth carrying, from column names and first rows.

A guess is a suggestion for people to check. It names the values whose meaning the data cannot tell (does 1 mean that
the first reply won?).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from robustalign.data.files import Row
from robustalign.data.formats.winner import WORDS

PROMPTS = ("prompt", "question", "instruction", "input", "query", "context", "history", "text", "title")
WINNERS = ("winner", "preference", "preferred", "choice", "label", "labels", "better", "chosen", "preference_strength")
SCORES = ("score", "rating", "rank", "reward", "helpfulness", "penalty", "overall")
TEXTS = ("text", "content", "response", "reply", "answer", "completion", "output", "generation")
FIRST_LAST = (("a", "b"), ("A", "B"), ("1", "2"), ("0", "1"), ("_a", "_b"), ("_1", "_2"), ("_0", "_1"))
MARKERS = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
_MOST_GROUPS = 50
_WHO = re.compile(r"country|lang|annotator|worker|judge|user_id|gender|age$|date|time|domain|categor", re.IGNORECASE)


@dataclass
class Guess:
    """``settings``: of ``dataset`` (format, fields, gather); ``doubts``: questions for a person."""

    settings: dict[str, Any] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)


def guess(rows: Sequence[Row]) -> Guess | None:
    """The format of some rows; None where nothing fits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    for look in (_pairs, _two_replies, _scored_rows, _scored_lists):
        if guess := look(names, rows):
            return guess
    return None


def columns_to_carry(rows: Sequence[Row], field_names: set[str]) -> list[str]:
    """Names of columns with few distinct values, or of people and times, that no field reads."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = {str(row.get(name)) for row in rows if row.get(name) not in (None, "")}
        short = all(len(value) <= 40 for value in values)
        familiar = re.search(
            r"country|lang|annotator|worker|judge|user_id|gender|age$|date|time|domain|categor", name, re.I
        )
        few = 2 <= len(values) <= min(_MOST_GROUPS, len(rows) // 2)
        if (
            name not in field_names
            and short
            and values
            and (familiar or few)
            and not _is_number(rows, name, unless=familiar)
        ):
            columns.append(name)
    return columns


def _pairs(names: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    if not {"chosen", "rejected"} <= set(names) or not (_textual(rows, "chosen") and _textual(rows, "rejected")):
        return None
    prompt = _prompt(names, rows)
    if prompt is not None:
        fields = {} if prompt == "prompt" else {"prompt": prompt}
        return Guess({"format": "pairs"} | ({"fields": fields} if fields else {}))
    both = {name: {"field": name, "markers": MARKERS} if _text(rows, name) else name for name in ("chosen", "rejected")}
    return Guess({"format": "dialogues", "fields": both})


def _two_replies(names: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    for a, b in _couples(names):
        if _textual(rows, a) and _textual(rows, b):
            prompt = _prompt([name for name in names if name not in (a, b)], rows)
            fields: dict[str, Any] = ({"prompt": prompt} if prompt else {}) | {"first": a, "second": b}
            numbers = [pair for pair in _couples(names) if _is_number(rows, pair[0]) and _is_number(rows, pair[1])]
            votes = next((pair for pair in numbers if "vote" in pair[0]), None)
            if votes:
                return Guess(
                    {"format": "votes", "fields": fields | {"count_first": votes[0], "count_second": votes[1]}}
                )
            return _with_winner(fields, names, rows, numbers)
    return None


def _with_winner(
    fields: dict[str, Any], names: Sequence[str], rows: Sequence[Row], numbers: Sequence[tuple[str, str]]
) -> Guess | None:
    guess = Guess({"format": "choice", "fields": fields})
    names_of_winner = [
        name for name in names if name.lower() in WINNERS or re.search("winner|prefer|strength", name, re.I)
    ]
    for name in sorted(names_of_winner, key=lambda name: name.lower() not in WINNERS):
        values = {str(row.get(name)) for row in rows if row.get(name) not in (None, "")}
        words = {word for synonyms in WORDS.values() for word in synonyms}
        if values & words:
            fields["winner"] = name
            if unknown := sorted(values - words):
                guess.doubts.append(f"what do {', '.join(unknown[:8])} of {name} mean?")
        elif values <= {"0", "1", "0.0", "1.0", "True", "False"}:
            fields["winner"] = {"field": name, "first": [1], "second": [0]}
            guess.doubts.append(f"does {name}=1 mean that the first reply won? Else swap first and second")
        elif _is_number(rows, name) and any(value.startswith("-") for value in values):
            fields["winner"] = {"field": name, "negative": "first"}
            guess.doubts.append(f"do numbers of {name} below 0 prefer the first reply? Else write negative: second")
        elif 0 < len(values) <= 8 and not _is_number(rows, name):
            fields["winner"] = {"field": name, "first": [], "second": [], "tie": []}
            guess.doubts.append(f"which of {', '.join(sorted(values))} of {name} means first, second, tie?")
        else:
            continue
        return guess
    if numbers:
        fields["winner"] = {"numbers": {"first": numbers[0][0], "second": numbers[0][1]}}
        guess.doubts.append(f"is a larger {numbers[0][0]} better?")
        return guess
    return None


def _scored_rows(names: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    prompt = _prompt(names, rows)
    text = next((n for n in names if n.lower() in TEXTS and n != prompt and _textual(rows, n)), None)
    score = next((n for n in names if n.lower() in SCORES and _is_number(rows, n)), None)
    if prompt is None or text is None or score is None:
        return None
    fields = {"prompt": prompt, "replies": "rows", "text": f"reply.{text}", "score": f"reply.{score}"}
    return Guess({"format": "scores", "gather": prompt, "fields": fields}, [f"is a larger {score} better?"])


def _scored_lists(names: Sequence[str], rows: Sequence[Row]) -> Guess | None:
    prompt = _prompt(names, rows)
    for name in names:
        replies = next((row[name] for row in rows if isinstance(row.get(name), list) and row[name]), None)
        if prompt is None or replies is None or not isinstance(replies[0], dict):
            continue
        text = next((key for key in replies[0] if key.lower() in TEXTS), None)
        score = next((key for key in replies[0] if key.lower() in SCORES), None)
        if text and score and name != prompt:
            fields = {"prompt": prompt, "replies": name, "text": f"reply.{text}", "score": f"reply.{score}"}
            return Guess({"format": "scores", "fields": fields}, [f"is a larger {score} better?"])
    return None


def _couples(names: Sequence[str]) -> list[tuple[str, str]]:
    """Columns whose names differ in their end alone: answer_a and answer_b."""
    pairs = []
    for a, b in FIRST_LAST:
        pairs += [(n, n[: -len(a)] + b) for n in names if n.endswith(a) and n[: -len(a)] + b in names]
    return list(dict.fromkeys(pairs))


def _prompt(names: Sequence[str], rows: Sequence[Row]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in PROMPTS if name in lower and _textual(rows, lower[name])), None)


def _text(rows: Sequence[Row], name: str) -> bool:
    return any(isinstance(row.get(name), str) for row in rows)


def _textual(rows: Sequence[Row], name: str) -> bool:
    """Text that is no number, or a list of messages."""
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    return bool(values) and all(isinstance(v, list | str) for v in values) and not _is_number(rows, name)


def _is_number(rows: Sequence[Row], name: str, unless: object = None) -> bool:
    if unless:
        return False
    values = [row[name] for row in rows if row.get(name) not in (None, "")]
    return bool(values) and all(re.fullmatch(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", str(value)) for value in values)
