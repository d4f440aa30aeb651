"""Splits that no row can cross: by conversation, and by prompt text."""

from __future__ import annotations

import hashlib

SPLITS = ("train", "validation", "test")
_TRAIN, _VALIDATION = 0.8, 0.1


def split_of(key: str) -> str:
    """The split of a conversation, from a hash of its id: 80 % train, 10 % validation, 10 % test.

    A pure function of the id, so adding conversations never moves the others.
    """
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if point < _TRAIN:
        return "train"
    return "validation" if point < _TRAIN + _VALIDATION else "test"


def text_key(text: str) -> str:
    """What makes two prompt texts the same: their words, without case or spacing."""
    return " ".join(text.lower().split())
