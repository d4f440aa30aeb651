"""A shift: the population that a policy is trained for, and those that it is tested on.

A *component* is a kind of labeller: an objective's people, or the people whose column has one value. A population is
shares over components, so what a policy is worth to it is the weighted mean of what it is worth to each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from robustalign.config import PairsConfig
from robustalign.errors import ConfigError
from robustalign.shifts.pairs import Pairs


class Rows(Protocol):
    """What a shift sees of a split of ``P`` prompts, or of ``P`` comparisons that people made.

    ``table`` holds ``replies`` and ``group``; ``scores`` is ``{objective: [P, n]}``. Of comparisons: ``columns``, text
    ``[P]`` by name; ``soft_label [P]``, the share of votes for the chosen reply, nan where the data do not say (one
    vote chose it); ``weight [P]``, how many votes a comparison stands for; ``items [P]``, equal where the same two
    replies to the same prompt were judged; ``first_share [P]``, the share of votes for the reply that comes first of
    the two, wherever they were judged.
    """

    @property
    def table(self) -> Any: ...
    @property
    def scores(self) -> Mapping[str, np.ndarray]: ...
    @property
    def columns(self) -> Mapping[str, np.ndarray]: ...
    @property
    def soft_label(self) -> np.ndarray: ...
    @property
    def weight(self) -> np.ndarray: ...
    @property
    def items(self) -> np.ndarray: ...
    @property
    def first_share(self) -> np.ndarray: ...


class Named(Protocol):
    """A component, by its name."""

    @property
    def name(self) -> str: ...


class Judge(Named, Protocol):
    """A component that rates replies. ``group``: the prompts that are its own, '' for all."""

    @property
    def group(self) -> str: ...
    def utility(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The utility of replies with these scores, of the scores' shape."""
        ...


class Populations(ABC):
    """The nominal population and the targets, as shares over components."""

    @property
    @abstractmethod
    def components(self) -> Sequence[Named]:
        """The kinds of labellers."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the targets."""

    @abstractmethod
    def shares(self, target: str | None = None) -> np.ndarray:
        """Weights ``[C]`` over ``components`` of a target, >= 0 and of sum 1; None is the nominal population."""

    @abstractmethod
    def coordinate(self, target: str) -> float:
        """Where the target stands on the axis away from the nominal population, in [0, 1]."""

    def farthest(self) -> str:
        """The target farthest from the nominal, the default of the oracle.

        Raises:
            ConfigError: there are no targets.
        """
        if not self.names:
            raise ConfigError("shift.targets", "is empty; the oracle needs a target")
        return max(self.names, key=self.coordinate)

    def pure(self, target: str) -> bool:
        """Whether the target consists of a single component."""
        return bool(self.shares(target).max() == 1)

    def importance(self, target: str) -> np.ndarray | None:
        """Target share over nominal share ``[C]``, the oracle's weights; None where the target has people that the
        nominal population has not."""
        nominal, shares_of_target = self.shares(), self.shares(target)
        if ((nominal == 0) & (shares_of_target > 0)).any():
            return None
        return np.divide(shares_of_target, nominal, out=np.zeros_like(shares_of_target), where=nominal > 0)

    def record(self) -> dict[str, Any]:
        """As plain values, from which ``Recorded`` is made again."""
        return {
            "components": [component.name for component in self.components],
            "nominal": self.shares().tolist(),
            "targets": {name: self.shares(name).tolist() for name in self.names},
            "coordinates": {name: self.coordinate(name) for name in self.names},
            "pure": [name for name in self.names if self.pure(name)],
        }


class Shift(Populations):
    """Populations that can be drawn from a split's rows."""

    @property
    def judges(self) -> Sequence[Judge]:
        """Those who can rate a new reply: one for each of ``components``, one for all of them, or none."""
        return ()

    @abstractmethod
    def pairs(self, rows: Rows, component: int, rule: PairsConfig, *, per_prompt: int, seed: int) -> Pairs:
        """The pairs of one component; ``annotator`` is its index."""

    @abstractmethod
    def distances(self, rows: Mapping[str, Rows], rule: PairsConfig) -> dict[str, list[float]]:
        """Columns over ``names``: how far each target is from the nominal population, beside its coordinate.

        ``rows``: the rows of each split.
        """


@dataclass(frozen=True)
class Kind:
    """A component of which no more than its name is known."""

    name: str


@dataclass(frozen=True)
class Recorded(Populations):
    """Populations as a run wrote them down."""

    values: Mapping[str, Any]

    @property
    def components(self) -> tuple[Kind, ...]:
        return tuple(map(Kind, self.values["components"]))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.values["targets"])

    def shares(self, target: str | None = None) -> np.ndarray:
        return np.array(self.values["nominal"] if target is None else self.values["targets"][target], dtype=float)

    def coordinate(self, target: str) -> float:
        return float(self.values["coordinates"][target])

    def pure(self, target: str) -> bool:
        return target in self.values["pure"]
