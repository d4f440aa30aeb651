"""Splits by a hash of a key, such as a conversation or a prompt: rows with one key are in one split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from robustalign.config import CutConfig
from robustalign.data.prompts import Turn

SPLITS = ("train", "validation", "test")
WHOLE = len(SPLITS)  # the code of rows that are cut into all three


def split_of(key: str) -> str:
    """The split of a conversation, from a hash of its id: 80 % train, 10 % validation, 10 % test.

    A pure function of the id, so adding conversations never moves the others.
    """
    return SPLITS[int(cut(np.array([hash_of(key)], dtype=np.uint64))[0])]


def hash_of(key: str) -> int:
    """A key as an integer in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(key.encode(errors="surrogatepass")).digest()[:8], "big")


def cut(hashes: np.ndarray, held_out: CutConfig | None = None) -> np.ndarray:
    """The split's code of each hash ``[N]``: 0 train, 1 validation, 2 test."""
    shares = CutConfig() if held_out is None else held_out
    point = hashes.astype(np.float64) / 2**64
    return (point >= 1 - shares.test - shares.validation).astype(np.int8) + (point >= 1 - shares.test)


def text_key(text: str) -> str:
    """What makes two prompt texts the same: their words, without case or spacing."""
    return " ".join(text.lower().split())


def prompt_key(turns: Sequence[Turn]) -> str:
    """What makes two prompts the same: all their turns, each with its role; one turn of a user is its text."""
    if len(turns) == 1:
        return text_key(turns[0].content)
    return "\n".join(f"{turn.role}: {text_key(turn.content)}" for turn in turns)


def placed(codes: np.ndarray, by_hash: np.ndarray, present: set[int]) -> np.ndarray:
    """The split's code of each row ``[N]``: its own, or cut off where the data lack a split.

    ``codes``: 0 to 2, or ``WHOLE``; ``by_hash``: where the hash alone puts a row (:func:`cut`); ``given``: the splits
    that the data have. A validation or test split that they lack is cut off the training rows, at the points of the
    hash where it lies when the whole is cut.
    """
    lacking = np.array([code not in present for code in range(len(SPLITS))])
    moves = (codes == WHOLE) | ((codes == 0) & lacking[by_hash])
    return np.where(moves, by_hash, codes).astype(np.int8)


def owners(codes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """For each row ``[N]`` the first split in which a row of its key stands."""
    _, group = np.unique(keys, return_inverse=True)
    first = np.full(group.max(initial=-1) + 1, len(SPLITS), dtype=np.int8)
    np.minimum.at(first, group, codes)
    return first[group]
