"""The content of a row, a comparison or the reason why there is none; and how turns become a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robustalign.data.files import BadRow, Row
from robustalign.data.prompts import Comparison, Prompt, Turn, said
from robustalign.data.sources import cells


@dataclass(frozen=True)
class Dropped:
    """A comparison that is left out for a reason, counted. ``prompt``: where it is known, for the count's split."""

    reason: str
    prompt: tuple[Turn, ...] = ()


Found = tuple[Comparison | Dropped, Row]  # the row (of one vote, one reply) that columns are read from

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
    asked = tuple(prompt)
    if not said(asked).strip():
        return Dropped("empty prompt", asked)
    if not said(chosen).strip() or not said(rejected).strip():
        return Dropped(EMPTY, asked)
    if tuple(chosen) == tuple(rejected):
        return Dropped(IDENTICAL, asked)
    return Comparison(Prompt(asked), tuple(chosen), tuple(rejected), soft_label=soft_label, weight=weight)


def apart(first: Sequence[Turn], second: Sequence[Turn]) -> tuple[tuple[Turn, ...], ...] | Dropped:
    """The common beginning of two transcripts, and the last turn of each."""
    shared = 0
    while shared < min(len(first), len(second)) and first[shared] == second[shared]:
        shared += 1
    prompt = tuple(first[:shared])
    if shared == len(first) == len(second):
        return Dropped(IDENTICAL, prompt)
    ends = (tuple(first[shared:]), tuple(second[shared:]))
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
        found = apart(first, second)
        return found if isinstance(found, Dropped) else (found[0], found[1], found[2])
    before = _system(cell, prompt)
    asked = (*before, *prompt)
    first, second = (turns(key, cells.reply_turns, value, asked) for key, value in zip(keys, cell, strict=True))
    while len(first) > 1 and len(second) > 1 and first[0] == second[0]:
        asked, first, second = (*asked, first[0]), first[1:], second[1:]
    return asked, first, second


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
