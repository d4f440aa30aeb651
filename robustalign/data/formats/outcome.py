"""The content of a row, a comparison or the reason why there is none; and how turns become a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robustalign.data.files import BadRow, Row
from robustalign.data.prompts import Comparison, Prompt, Turn, plain_text
from robustalign.data.sources import cells


@dataclass(frozen=True)
class Dropped:
    """A comparison that is left out for a reason, counted. ``prompt``: where it is known, for the count's split."""

    reason: str
    prompt: tuple[Turn, ...] = ()


Outcome = tuple[Comparison | Dropped, Row]  # the row (of one vote, one reply) that columns are read from

TIE, NEITHER, IDENTICAL, EMPTY = "tie", "neither is valid", "identical replies", "empty reply"
PARTS = "replies part before the last turn"


def turns(key: str, read: Callable[..., tuple[Turn, ...]], *cell: Any) -> tuple[Turn, ...]:
    """A cell as turns.

    Raises:
        BadRow: with the key of the field.
    """
    try:
        return read(*cell)
    except ValueError as error:
        raise BadRow(key, str(error)) from error


def comparison(
    prompt: Sequence[Turn],
    chosen: Sequence[Turn],
    rejected: Sequence[Turn],
    soft_label: float | None = None,
    weight: float = 1.0,
) -> Comparison | Dropped:
    """A comparison, unless a reply is empty or both are the same."""
    turns_before = tuple(prompt)
    if not plain_text(turns_before).strip():
        return Dropped("empty prompt", turns_before)
    if not plain_text(chosen).strip() or not plain_text(rejected).strip():
        return Dropped(EMPTY, turns_before)
    if tuple(chosen) == tuple(rejected):
        return Dropped(IDENTICAL, turns_before)
    return Comparison(Prompt(turns_before), tuple(chosen), tuple(rejected), soft_label=soft_label, weight=weight)


def apart(first: Sequence[Turn], second: Sequence[Turn]) -> tuple[tuple[Turn, ...], ...] | Dropped:
    """The common beginning of two transcripts, and the last turn of each."""
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    prompt = tuple(first[:same])
    if same == len(first) == len(second):
        return Dropped(IDENTICAL, prompt)
    ends = (tuple(first[same:]), tuple(second[same:]))
    if not prompt or any(len(end) != 1 or end[0].role != "assistant" for end in ends):
        return Dropped(PARTS, prompt)
    return prompt, *ends


def both_replies(
    prompt: tuple[Turn, ...] | None, cell: Sequence[Any], keys: Sequence[str]
) -> tuple[tuple[Turn, ...], tuple[Turn, ...], tuple[Turn, ...]] | Dropped:
    """The prompt and two replies of two cells; without a prompt the cells are transcripts.

    A system turn that both replies bring along joins the prompt, as do further turns that both begin with.

    Raises:
        BadRow: a cell is neither text nor messages, or does not go on from the prompt.
    """
    if prompt is None:
        first, second = (turns(key, cells.prompt_turns, value) for key, value in zip(keys, cell, strict=True))
        parts = apart(first, second)
        return parts if isinstance(parts, Dropped) else (parts[0], parts[1], parts[2])
    before = _system(cell, prompt)
    turns_before = (*before, *prompt)
    first, second = (turns(key, cells.reply_turns, value, turns_before) for key, value in zip(keys, cell, strict=True))
    while len(first) > 1 and len(second) > 1 and first[0] == second[0]:
        turns_before, first, second = (*turns_before, first[0]), first[1:], second[1:]
    return turns_before, first, second


def _system(cell: Sequence[Any], prompt: Sequence[Turn]) -> tuple[Turn, ...]:
    if prompt[0].role == "system" or any(isinstance(value, str) or not value for value in cell):
        return ()
    starts = []
    for value in cell:
        message = value[0] if isinstance(value, list) else value
        role = message.get("role", message.get("from")) if isinstance(message, dict) else None
        if role != "system":
            return ()
        starts.append(cells.prompt_turns([message]))
    return starts[0] if starts[0] == starts[1] else ()
