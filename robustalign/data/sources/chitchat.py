"""Human small talk from the ``chitchat-dataset`` wheel (MIT, BYU PCC Lab; Myers et al. 2020).

7,168 two-person chats. The conversations are split by a hash of their id. A turn is everything
one person said before the other answered.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from robustalign import wheels
from robustalign.data.prompts import Prompt, Turn
from robustalign.data.splits import SPLITS, split_of, text_key
from robustalign.errors import ConfigError


@dataclass(frozen=True)
class Conversation:
    """One chat: its id and its turns in order (at least two)."""

    id: str
    turns: tuple[str, ...]

    @property
    def split(self) -> str:
        return split_of(self.id)


def location() -> Path:
    """The data file inside the installed wheel.

    Raises:
        ConfigError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "dataset.source",
            f"'chitchat' needs the wheel chitchat-dataset; install it with '{wheels.install()}'",
        )
    return Path(spec.origin).parent / "dataset.json"


@cache
def conversations() -> tuple[Conversation, ...]:
    """All chats with two turns or more, in the file's order."""
    raw = json.loads(location().read_text(encoding="utf-8"))
    chats = (Conversation(id, tuple(_turns(chat["messages"]))) for id, chat in raw.items())
    return tuple(chat for chat in chats if len(chat.turns) >= 2)


def _turns(messages: list[list[dict]]) -> Iterator[str]:
    for turn in messages:
        text = " ".join(" ".join(str(message["text"]) for message in turn).split())
        if text:
            yield text


@cache
def _first_split_of_text() -> dict[str, str]:
    """Turn text -> the first split (train before validation before test) in which it was said."""
    owner: dict[str, str] = {}
    for split in SPLITS:
        for chat in conversations():
            if chat.split == split:
                for turn in chat.turns:
                    owner.setdefault(text_key(turn), split)
    return owner


def prompts(split: str, *, min_words: int, max_words: int) -> list[Prompt]:
    """Single turns of ``min_words`` to ``max_words`` words that somebody answered.

    A text that was said in several splits is a prompt of the first of them only, and once.
    ``group`` is ``question`` where the turn holds a question mark, else ``statement``.
    """
    owner = _first_split_of_text()
    keys_taken: set[str] = set()
    result = []
    for chat in conversations():
        if chat.split != split:
            continue
        for turn in chat.turns[:-1]:
            key = text_key(turn)
            if min_words <= len(turn.split()) <= max_words and owner[key] == split and key not in keys_taken:
                keys_taken.add(key)
                group = "question" if "?" in turn else "statement"
                result.append(Prompt((Turn("user", turn),), group))
    return result
