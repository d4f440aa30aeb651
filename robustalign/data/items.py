"""Which comparisons are of the same item: two replies to a prompt, whoever judged them and whichever was chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Items:
    """Of ``P`` comparisons: ``item [P]`` int64, ``prompt [P]`` int64, both from 0; ``chosen_first [P]`` bool, whether
    the chosen reply comes first in the item's order, which is that of the texts."""

    item: np.ndarray
    prompt: np.ndarray
    chosen_first: np.ndarray


def items_of(prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[str]]) -> Items:
    """The items of comparisons: ``prompts``, token ids, and ``replies``, two texts each."""
    prompt_keys = [hashlib.sha256(np.asarray(ids, dtype=np.int64).tobytes()).digest() for ids in prompts]
    both = ["\x1f".join(sorted(texts)).encode(errors="surrogatepass") for texts in replies]
    item_keys = [hashlib.sha256(prompt + texts).digest() for prompt, texts in zip(prompt_keys, both, strict=True)]
    return Items(
        item=_numbered(item_keys),
        prompt=_numbered(prompt_keys),
        chosen_first=np.array([chosen <= rejected for chosen, rejected in replies], dtype=bool),
    )


def _numbered(keys: Sequence[bytes]) -> np.ndarray:
    """Each key's number, in the order of first occurrence."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)
