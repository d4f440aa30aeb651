"""The facts about a data set as it would be read: counts, groups, duplicates, lengths, and every faulty row."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from robustalign.config import DatasetConfig
from robustalign.data.files import BadRow
from robustalign.data.prompts import Comparison, Turn, messages, said
from robustalign.data.reading import Account, Reading
from robustalign.data.splits import prompt_key
from robustalign.policies.encode import Encoder, Unrenderable
from robustalign.progress import Pace


@dataclass
class Examined:
    """What was found. ``bad``: where a row stands, and its fault; ``lengths``: tokens by part ``[N]``, of the
    comparisons that the chat template takes; ``values``: of every carried column."""

    account: Account = field(default_factory=Account)
    comparisons: int = 0
    prompts: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    values: dict[str, Counter[str]] = field(default_factory=dict)
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    repeated: int = 0
    contrary: int = 0
    roles: Counter[str] = field(default_factory=Counter)


def examine(config: DatasetConfig, encoder: Encoder) -> Examined:
    """Read everything once; rows that cannot be read are listed instead of refused.

    Raises:
        ConfigError: the data are not there, or lack a column.
    """
    found = Examined()

    def note(where: str, error: BadRow) -> None:
        found.bad.append((where, f"{error.key}: {error.problem}"))

    reading = Reading(config, bad=note)
    seen: set[bytes] = set()
    asked: set[bytes] = set()
    lengths, pace = array("i"), Pace("check", None, "comparisons")
    found.values = {name: Counter() for name in config.columns}
    for comparison in reading.comparisons():
        found.comparisons += 1
        key = prompt_key(comparison.prompt.turns)
        asked.add(_short(key))
        texts = said(comparison.chosen), said(comparison.rejected)
        mine, other = _short(key, *texts), _short(key, *reversed(texts))
        found.repeated += mine in seen
        found.contrary += other in seen
        seen.add(mine)
        found.roles[" ".join(turn.role for turn in comparison.prompt.turns)] += 1
        for name, value in comparison.columns.items():
            found.values[name][str(value)] += 1
        try:
            lengths.extend(_tokens(comparison, encoder))
        except Unrenderable as error:
            found.bad.append((comparison.row, f"model.path: {error}"))
        pace.update(found.comparisons)
    found.prompts = len(asked)
    found.lengths = dict(
        zip(("prompt", "chosen", "rejected"), np.array(lengths, dtype=np.int64).reshape(-1, 3).T, strict=True)
    )
    _, found.account = reading.place()
    return found


def _tokens(comparison: Comparison, encoder: Encoder) -> tuple[int, int, int]:
    prompt = messages(comparison.prompt.turns)
    both = [len(encoder.reply(prompt, messages(reply))) for reply in (comparison.chosen, comparison.rejected)]
    return len(encoder.prompt(prompt)), both[0], both[1]


def rendered(prompt: list[Turn], replies: list[list[Turn]], encoder: Encoder) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt and of replies to it, as they are trained on."""
    asked = messages(prompt)
    return encoder.prompt(asked), [encoder.reply(asked, messages(reply)) for reply in replies]


def _short(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).digest()
