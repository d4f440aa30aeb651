"""What every grouping is: a map from pairs to soft memberships in groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from robustalign.bounds import refuse


@dataclass(frozen=True, kw_only=True)
class PairData:
    """What a grouping may look at; ``[N]`` each, in the order of the pairs."""

    prompt: np.ndarray
    """Which prompt, int64: folds never split one."""
    features: np.ndarray | None = None
    """``[N, D]``: phi(chosen) - phi(rejected), see ``robustalign.policies.features``."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the data say of a pair, as text: who labelled it, where, when."""
    vote_share: np.ndarray | None = None
    """Share in [0, 1] of a pair's voters who preferred chosen."""
    losses: np.ndarray | None = None
    """The pair's loss under an early policy, see ``Grouping.first_run``."""

    def __len__(self) -> int:
        return len(self.prompt)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups that a grouping found."""

    names: tuple[str, ...]
    """Of the K groups; the last is the one that ``method.mass`` weighs up."""
    membership: np.ndarray
    """``[N, K]`` >= 0, rows sum to 1."""
    score: np.ndarray | None = None
    """``[N]``: how strongly a pair points to the last group, on any scale; None: its membership."""
    gain: np.ndarray | None = None
    """``[N]``: log-likelihood of the choice, held out, under the K groups minus that under one, nats; None: the
    grouping has no likelihood. NaN where a pair could not be held out."""
    unit: np.ndarray | None = None
    """``[N]``: pairs that stand or fall together in the gain's interval; None: those of a prompt."""
    doubts: tuple[str, ...] = ()
    """Reasons against the groups that no likelihood shows."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What was chosen and measured on the way, by name."""


class Grouping(ABC):
    """Base of all groupings: a frozen dataclass whose fields are its config keys.

    A subclass sets ``name``, ``needs`` and ``find``. A module of ``robustalign.groups.methods`` that defines one is
    found by itself; nothing has to be registered.
    """

    name: ClassVar[str]
    """What configs and tables call it."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Of ``features``, ``losses`` and ``vote_share``."""
    layers: list[int]
    """Where it needs features: of which hidden states."""

    def __post_init__(self) -> None:
        refuse(self)
        if not getattr(self, "layers", [0]):
            raise ValueError("layers: is empty; 0 is the input embeddings")

    @abstractmethod
    def find(self, data: PairData) -> Groups:
        """The groups of these pairs.

        Raises:
            ValueError: "field: problem", where the pairs cannot serve the grouping.
        """

    def first_run(self) -> dict[str, Any]:
        """The ``method`` and the ``steps`` of the early policy, for a grouping that needs its losses."""
        raise NotImplementedError


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """Memberships ``[N, size]`` of pairs that belong to one group each, ``ids [N]``."""
    return np.eye(size)[ids]
