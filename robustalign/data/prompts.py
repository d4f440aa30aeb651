"""A prompt: what a policy is asked, and the group of people it comes from where one is known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """``turns``: user, assistant, …, user, so the last is what is asked. ``group``: seen in its text, or ''."""

    turns: tuple[str, ...]
    group: str = ""

    @property
    def text(self) -> str:
        return self.turns[-1]


@dataclass(frozen=True)
class Comparison:
    """A prompt with two given replies, of which people chose the first."""

    prompt: Prompt
    chosen: str
    rejected: str
