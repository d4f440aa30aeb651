"""What every pair loss is: a function from a pair's terms to its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor

from robustalign.bounds import refuse
from robustalign.objectives.terms import PairTerms


class PairLoss(ABC):
    """Base of all pair losses: a frozen dataclass whose fields are its config keys.

    A subclass sets ``name``, ``needs`` and ``_losses``. A module of this package that defines one is found by
    itself; nothing has to be registered.
    """

    name: ClassVar[str]
    """What configs and tables call the loss."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """The :class:`PairTerms` columns it reads besides ``margin``; read it on the instance, a field may add some."""

    def losses(self, terms: PairTerms | Tensor) -> Tensor:
        """The loss of each pair.

        Args:
            terms: the pairs, or their bare margin ``[N]`` for a loss that needs nothing else.

        Returns:
            ``[N]``, in the dtype of the terms, differentiable.

        Raises:
            ValueError: a needed column is missing.
        """
        if isinstance(terms, Tensor):
            terms = PairTerms(terms)
        missing = sorted(name for name in self.needs if getattr(terms, name) is None)
        if missing:
            raise ValueError(f"terms: the {self.name} loss needs {', '.join(missing)}")
        return self._losses(terms)

    def __post_init__(self) -> None:
        """Refuse fields of the wrong type or outside their declared range (``ValueError("field: problem")``)."""
        refuse(self)

    @abstractmethod
    def _losses(self, terms: PairTerms) -> Tensor: ...

    def state_dict(self) -> dict[str, Tensor]:
        """What the loss has learnt: nothing, unless it adapts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        if state:
            raise ValueError(f"state: the {self.name} loss learns nothing but was given {', '.join(state)}")


class Adapted(NamedTuple):
    """What an :class:`AdaptiveLoss` makes of a batch."""

    loss: PairLoss
    """For the pairs of this batch."""
    weight: Tensor
    """``[N]`` prior weights >= 0, no gradient: those given, 0 for pairs that are left out."""
    diagnostics: dict[str, float]
    """What is worth a look, by name."""


class AdaptiveLoss(PairLoss):
    """A pair loss that is set anew for every optimiser batch, learning as it goes; not frozen.

    A subclass sets ``adapt`` and what it learns: a run resumed from :meth:`state_dict` continues as if it had not been
    interrupted.
    """

    @abstractmethod
    def adapt(self, margin: Tensor, row: Tensor, weight: Tensor | None = None) -> Adapted:
        """The loss of a batch.

        Args:
            margin: ``[N]``, of the whole optimiser batch; one value for all where they cannot be told apart.
            row: ``[N]`` int64, what identifies a pair; draws follow it, not the order of the pairs.
            weight: ``[N]`` prior weights >= 0, not all 0.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """What the loss has learnt."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""


def column(value: Tensor | None) -> Tensor:
    """A column of :class:`PairTerms` whose presence ``needs`` has guaranteed."""
    assert value is not None
    return value
