"""The facts about a data set as it would be read: counts, groups, duplicates, lengths, and every faulty row."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from robustalign.config import DatasetConfig
from robustalign.data.files import BadRow
from robustalign.data.prompts import Comparison, Turn, messages, plain_text
from robustalign.data.reading import Account, Reading
from robustalign.data.splits import prompt_key
from robustalign.policies.encode import Encoder, Unrenderable
from robustalign.policies.rendering import given
from robustalign.progress import Pace


@dataclass
class DataFacts:
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


def examine(config: DatasetConfig, encoder: Encoder) -> DataFacts:
    """Read everything once; rows that cannot be read are listed instead of refused.

    Raises:
        ConfigError: the data are not there, or lack a column.
    """
    facts = DataFacts()

    def note(where: str, error: BadRow) -> None:
        facts.bad.append((where, f"{error.key}: {error.problem}"))

    reading = Reading(config, bad=note)
    items: set[bytes] = set()
    prompts: set[bytes] = set()
    lengths, pace = array("i"), Pace("check", None, "comparisons")
    facts.values = {name: Counter() for name in config.columns}
    for comparison in reading.comparisons():
        facts.comparisons += 1
        key = prompt_key(comparison.prompt.turns)
        prompts.add(_short(key))
        texts = plain_text(comparison.chosen), plain_text(comparison.rejected)
        item, other = _short(key, *texts), _short(key, *reversed(texts))
        facts.repeated += item in items
        facts.contrary += other in items
        items.add(item)
        facts.roles[" ".join(turn.role for turn in comparison.prompt.turns)] += 1
        for name, value in comparison.columns.items():
            facts.values[name][str(value)] += 1
        try:
            lengths.extend(_tokens(comparison, encoder))
        except Unrenderable as error:
            facts.bad.append((comparison.row, f"model.path: {error}"))
        pace.update(facts.comparisons)
    facts.prompts = len(prompts)
    facts.lengths = dict(
        zip(("prompt", "chosen", "rejected"), np.array(lengths, dtype=np.int64).reshape(-1, 3).T, strict=True)
    )
    _, facts.account = reading.place()
    return facts


def _tokens(comparison: Comparison, encoder: Encoder) -> tuple[int, int, int]:
    prompt, both = rendered(comparison.prompt.turns, [comparison.chosen, comparison.rejected], encoder)
    return len(prompt), len(both[0]), len(both[1])


def rendered(
    prompt: Sequence[Turn], replies: Sequence[Sequence[Turn]], encoder: Encoder
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt and of replies to it, as they are trained on.

    Raises:
        Unrenderable: the chat template refuses them.
    """
    encoded = given(encoder.rows([(messages(prompt), [messages(reply) for reply in replies])])[0])
    return encoded.prompt, encoded.replies


def _short(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(errors="surrogatepass"), digest_size=8).digest()
