"""What every pair loss is: a function from a pair's terms to its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

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

    @abstractmethod
    def _losses(self, terms: PairTerms) -> Tensor: ...


def column(value: Tensor | None) -> Tensor:
    """A column of :class:`PairTerms` whose presence ``needs`` has guaranteed."""
    assert value is not None
    return value
