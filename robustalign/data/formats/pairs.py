"""``pairs``: a prompt, the reply that people preferred, and the other; each text or chat messages.

Messages of a reply may repeat the prompt's turns first (UltraFeedback-binarized). ``score_chosen`` and
``score_rejected``, where they are named, tell ties.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustalign.config import DatasetConfig
from robustalign.data.files import Row
from robustalign.data.formats import Fields
from robustalign.data.formats.outcome import TIE, Dropped, Outcome, both_replies, comparison, turns
from robustalign.data.sources import cells

REQUIRED = ("prompt", "chosen", "rejected")
OPTIONAL = ("score_chosen", "score_rejected")


def read(row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
    """One comparison.

    Raises:
        BadRow: a cell holds nothing, or is neither text nor messages.
    """
    prompt = turns("dataset.fields.prompt", cells.prompt_turns, fields.value("prompt", row))
    names = ("chosen", "rejected")
    scores = [fields[name](row) for name in OPTIONAL if name in fields]
    if len(scores) == 2 and None not in scores and scores[0] == scores[1] and config.ties == "drop":
        yield Dropped(TIE, prompt), row
        return
    turns_of_row = both_replies(prompt, [fields.value(n, row) for n in names], [f"dataset.fields.{n}" for n in names])
    yield turns_of_row if isinstance(turns_of_row, Dropped) else comparison(*turns_of_row), row
