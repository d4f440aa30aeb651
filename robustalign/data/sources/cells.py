"""A cell of a table, text or chat messages, as turns. Every error says what is wrong with the cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robustalign.data.prompts import Turn

SPEAKERS = {"human": "user", "gpt": "assistant"}
"""Roles of messages with the keys ``from`` and ``value`` (ShareGPT)."""
UNSPOKEN = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""What a message may hold beside its content, and a turn cannot."""


def prompt_turns(value: Any) -> tuple[Turn, ...]:
    """A prompt: text is one turn of the user.

    Raises:
        ValueError: it is neither text nor messages.
    """
    return (Turn("user", value),) if isinstance(value, str) else _messages(value)


def reply_turns(value: Any, prompt: Sequence[Turn]) -> tuple[Turn, ...]:
    """A reply: text is one turn of the assistant; messages may repeat those of the prompt first.

    Raises:
        ValueError: it is neither text nor messages, or does not begin and end with a turn of the assistant.
    """
    if isinstance(value, str):
        return (Turn("assistant", value),)
    turns = _messages(value)
    for start in (tuple(prompt), tuple(turn for turn in prompt if turn.role != "system")):
        if start and turns[: len(start)] == start:
            turns = turns[len(start) :]
            break
    if not turns:
        raise ValueError("nothing follows the prompt")
    for turn, place in ((turns[0], "begins"), (turns[-1], "ends")):
        if turn.role != "assistant":
            raise ValueError(f"a reply {place} with a turn of the assistant, not of {turn.role!r}")
    return turns


def _messages(value: Any) -> tuple[Turn, ...]:
    if value is None:
        raise ValueError("is empty")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise ValueError(f"must be text or chat messages, not {type(value).__name__} ({str(value)[:40]})")
    if not value:
        raise ValueError("holds no message")
    return tuple(_turn(message) for message in value)


def _turn(message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise ValueError(f"a message has a role and a content; {str(message)[:40]!r} has not")
    role = message.get("role")
    if role is None:
        role = SPEAKERS.get(str(message.get("from")), message.get("from"))
    if not isinstance(role, str) or not role:
        raise ValueError(f"a message has no role (keys: {', '.join(map(str, message))})")
    for key in UNSPOKEN:
        if message.get(key):
            raise ValueError(f"a message of {role!r} holds {key}, which cannot be kept; write it into the content")
    content = message.get("content")
    return Turn(role, _text(message.get("value") if content is None else content, role))


def _text(content: Any, role: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence) and not isinstance(content, bytes):
        return "".join(_part(part, role) for part in content)
    if content is None:
        raise ValueError(f"a message of {role!r} has no content")
    raise ValueError(f"the content of a message of {role!r} is {type(content).__name__}, not text")


def _part(part: Any, role: str) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise ValueError(f"a message of {role!r} holds a part of type {kind!r}; only text can be read")
    return text
