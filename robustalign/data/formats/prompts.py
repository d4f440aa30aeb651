"""Prompts without replies (``dataset.source=prompts``)."""

from __future__ import annotations

from collections.abc import Iterator

from robustalign.config import DatasetConfig
from robustalign.data.files import Row
from robustalign.data.formats import Fields
from robustalign.data.formats.outcome import Dropped, Outcome, turns
from robustalign.data.prompts import Comparison, Prompt, plain_text
from robustalign.data.sources import cells

REQUIRED = ("prompt",)
OPTIONAL = ()


def read(row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
    """A comparison of nothing.

    Raises:
        BadRow: the cell holds nothing, or is neither text nor messages.
    """
    prompt = turns("dataset.fields.prompt", cells.prompt_turns, fields.value("prompt", row))
    yield Comparison(Prompt(prompt), (), ()) if plain_text(prompt).strip() else Dropped("empty prompt", prompt), row
