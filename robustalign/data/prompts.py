"""A prompt: what a policy is asked, and the group of people it comes from where one is known."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """``text``: the user's turn. ``group``: a label of the prompt visible in its text, or ''."""

    text: str
    group: str = ""
