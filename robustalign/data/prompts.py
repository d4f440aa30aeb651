"""The contents of data: turns with their roles, prompts made of turns, and comparisons of two replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Turn:
    """A message of one speaker. ``role``: user, assistant, system, tool or whatever the chat template knows."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A prompt for a policy.

    ``turns``: at least one, up to where the reply begins. ``group``: of the people it comes from, or ''.
    ``row``: where it stands in the data, for messages ('train row 17'); it plays no part in comparisons.
    """

    turns: tuple[Turn, ...]
    group: str = ""
    row: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The content of the last turn."""
        return self.turns[-1].content


@dataclass(frozen=True)
class Comparison:
    """A prompt with two given replies, of which people chose the first.

    ``chosen`` and ``rejected``: one or more turns each, usually one of the assistant. ``columns``: further columns of
    its row. ``soft_label``: share of people who chose ``chosen``, where it is known. ``weight``: >= 0, of the row.
    """

    prompt: Prompt
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    columns: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    soft_label: float | None = None
    weight: float = 1.0
    row: str = field(default="", compare=False)


def messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns in the form that chat templates read."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def plain_text(turns: Sequence[Turn]) -> str:
    """The text of a reply: its turn's content, or those of its turns, one a line."""
    return "\n".join(turn.content for turn in turns)
