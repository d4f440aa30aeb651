"""``dialogues``: two whole transcripts that share a beginning (HH-RLHF); what differs is the last turn.

Text is cut into turns by ``fields.chosen.markers``. Transcripts that part earlier are dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from robustalign.config import DatasetConfig
from robustalign.data.files import BadRow, Row
from robustalign.data.formats import Fields
from robustalign.data.formats.outcome import Dropped, Outcome, both_replies, comparison

REQUIRED = ("chosen", "rejected")
OPTIONAL = ()


def read(row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
    """One comparison.

    Raises:
        BadRow: a cell holds nothing, or is no transcript.
    """
    both = [fields.value(name, row) for name in REQUIRED]
    for name, value in zip(REQUIRED, both, strict=True):
        if isinstance(value, str):
            problem = "is text, not a transcript; say what stands before a turn: markers: {'\\n\\nHuman:': user, ...}"
            raise BadRow(f"dataset.fields.{name}", problem)
    turns_of_row = both_replies(None, both, [f"dataset.fields.{name}" for name in REQUIRED])
    yield turns_of_row if isinstance(turns_of_row, Dropped) else comparison(*turns_of_row), row
