"""``choice``: two replies and who won (``robustalign.data.formats.winner``).

``first`` and ``second`` are texts or messages; without a ``prompt`` they are whole transcripts, whose shared beginning
is the prompt. ``dataset.ties=half`` keeps a tie as a comparison with the soft label 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustalign.config import DatasetConfig
from robustalign.data.files import Row
from robustalign.data.formats import Fields
from robustalign.data.formats.outcome import NEITHER, TIE, Dropped, Outcome, both_replies, comparison, turns
from robustalign.data.formats.winner import Winner
from robustalign.data.sources import cells

REQUIRED = ("first", "second", "winner")
OPTIONAL = ("prompt",)
SPECIAL = ("winner",)
NAMES = ("first", "second")


def prepare(fields: Fields) -> None:
    """Compile who won."""
    fields["winner"] = Winner(fields["winner"], "dataset.fields.winner")


def read(row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
    """One comparison.

    Raises:
        BadRow: a cell holds nothing, or nobody can tell who won.
    """
    outcome = fields["winner"](row)
    turns_of_row = two_replies(row, fields)
    if isinstance(turns_of_row, Dropped):
        yield turns_of_row, row
        return
    prompt, first, second = turns_of_row
    if outcome == "neither":
        yield Dropped(NEITHER, prompt), row
    elif outcome == "tie":
        yield comparison(prompt, first, second, 0.5) if config.ties == "half" else Dropped(TIE, prompt), row
    else:
        chosen, rejected = (first, second) if outcome == "first" else (second, first)
        yield comparison(prompt, chosen, rejected), row


def two_replies(row: Row, fields: Fields):
    """The prompt, the first and the second reply.

    Raises:
        BadRow: a cell holds nothing, or is neither text nor messages.
    """
    prompt = None
    if "prompt" in fields:
        prompt = turns("dataset.fields.prompt", cells.prompt_turns, fields.value("prompt", row))
    return both_replies(prompt, [fields.value(n, row) for n in NAMES], [f"dataset.fields.{n}" for n in NAMES])
