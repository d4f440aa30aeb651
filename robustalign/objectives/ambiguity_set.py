"""What every ambiguity set is: a map from the losses of a batch to its worst law near the nominal one.

A set answers sup over laws P near Q of E_P[l], where Q is the nominal law of the batch (uniform, or a prior weight
per pair). By Danskin's theorem the gradient of that supremum is the gradient of E_P[l] with the maximising P held
fixed, so the weights carry no gradient: the robust value is a weighted sum, and a training step a weighted backward.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from robustalign.bounds import refuse


@dataclass(frozen=True)
class Knob:
    """The number that makes a set stronger or weaker: a field of it."""

    field: str
    """The set's field, and so the config key ``method.<field>``."""
    unit: str
    """What the number counts, in words: ``nats``, ``share of the pairs``."""
    stronger: int = 1
    """1 where larger values lead further from the nominal law, -1 where smaller ones do."""
    nominal: float = 0.0
    """The value at which the set is the nominal law, inf allowed."""

    def strength(self, value: float) -> float:
        """How far a value leads from the nominal law, >= 0: an order of the values of one knob, no common unit."""
        return value if self.stronger > 0 else 1 / value - 1 / self.nominal


@dataclass(frozen=True, kw_only=True)
class RobustValue:
    """The answer of an ambiguity set for ``N`` losses."""

    value: Tensor
    """0-dim, fp32 at least: sum_i weights_i losses_i / N, the expected loss under the worst law, summed in fp64;
    differentiable in the losses."""
    weights: Tensor
    """``[N]``, no gradient, on the losses' device in their dtype, fp32 at least: N times the worst law's
    probabilities, so mean 1, save for unnormalised or streaming sets. A sum of separately weighted micro-batches is
    the same as the whole."""
    dual: float
    """The set's dual variable (see the set); nan where it has none."""
    ess: float
    """Effective sample size 1 / sum p_i^2 in pairs, of the normalised weights."""
    divergence: float
    """Realised distance of the worst law from the nominal one, in the unit of the set's radius."""
    n: int
    """Pairs with a positive prior weight; a radius has a meaning only together with it."""
    clamped: float = 0.0
    """Share of the pairs whose weight was cut."""


@dataclass(frozen=True, kw_only=True)
class WorstLaw:
    """A worst law before it meets the loss tensor; all in fp64 on the CPU."""

    probabilities: Tensor
    """``[N]``, summing to 1 save for an unnormalised or streaming set."""
    dual: float = math.nan
    divergence: float = 0.0
    clamped: float = 0.0


class AmbiguitySet(ABC):
    """Base of all ambiguity sets: a dataclass whose fields are its config keys.

    A subclass sets ``name``, ``knobs`` and ``_worst_law``. A module of this package that defines one is found by
    itself; nothing has to be registered.
    """

    name: ClassVar[str]
    """What configs and tables call the set."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """The per-pair columns ``worst_case`` must be given."""
    acts_on: ClassVar[str] = "weights"
    """What the adversary changes: the ``weights`` of the pairs, their embedded ``inputs``, or the ``output_layer``."""
    couples: ClassVar[bool] = True
    """Whether the weight of a pair depends on the losses of others."""
    knobs: ClassVar[tuple[Knob, ...]] = ()
    """What sets the strength: one knob, or several of which a config gives one; none where nothing can be set."""

    @classmethod
    def knob(cls, values: Mapping[str, Any]) -> Knob | None:
        """The knob that a ``method`` config turns: the first whose field has a value; None where there is none."""
        return next((knob for knob in cls.knobs if values.get(knob.field) is not None), None)

    def __post_init__(self) -> None:
        """Refuse fields of the wrong type or outside their declared range (``ValueError("field: problem")``)."""
        refuse(self)

    def worst_case(
        self,
        losses: Tensor,
        *,
        weight: Tensor | None = None,
        group: Tensor | None = None,
        rounding: Tensor | None = None,
    ) -> RobustValue:
        """The worst law for these losses; changes no state.

        Args:
            losses: ``[N]``, any float dtype. The law is found in fp64 from their values. Infinite losses have the
                law that ever larger finite ones approach; with a NaN the value is NaN, the law the nominal one.
            weight: ``[N]`` prior weights >= 0 on any scale, default all equal; a weight of 0 takes a pair out.
            group: for a set that needs it, ``[N]`` integer group ids, or memberships ``[N, G]`` whose rows sum to 1.
            rounding: ``[N]``, how far each loss may be off, in its unit; default exact. Losses that all lie within
                twice the largest of it cannot be told apart and are taken as equal (:func:`tied`).

        Raises:
            ValueError: no losses, a shape that differs, negative or all-zero weights, a needed column missing.
        """
        return self._value(self._worst_law, losses, weight, group, rounding)

    def step(
        self,
        losses: Tensor,
        *,
        weight: Tensor | None = None,
        group: Tensor | None = None,
        rounding: Tensor | None = None,
    ) -> RobustValue:
        """The value to train on: what :meth:`worst_case` says, learning from these losses where the set learns.

        Nothing is learnt from a batch with a NaN. Arguments and errors are those of :meth:`worst_case`.
        """
        return self._value(self._learn, losses, weight, group, rounding)

    def state_dict(self) -> dict[str, Tensor]:
        """What the set has learnt; a run resumed from it continues as if it had not been interrupted."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_dict` returned."""
        if state:
            raise ValueError(f"state: the {self.name} set learns nothing but was given {', '.join(state)}")

    def degenerate_radius(self, n: int) -> float | None:
        """The radius from which the worst law of ``n`` equally likely pairs is one pair; None where there is none."""
        return None

    def check(self, n: int) -> None:
        """Refuse a radius that has lost its meaning for batches of ``n`` pairs.

        Raises:
            ValueError: all mass would sit on a single pair.
        """
        radius, bound = getattr(self, "radius", None), self.degenerate_radius(n)
        if radius and bound is not None and radius >= bound:
            raise ValueError(
                f"radius: {radius:g} puts all mass on one of {n} pairs; stay below {bound:.4g} or pool more pairs"
            )

    def _value(
        self,
        worst_law: Callable[[Tensor, Tensor, Tensor | None], WorstLaw],
        losses: Tensor,
        weight: Tensor | None,
        group: Tensor | None,
        rounding: Tensor | None,
    ) -> RobustValue:
        """The value of the losses under the law that ``worst_law`` returns; with a NaN, under the nominal law."""
        _check_columns(losses, weight=weight, group=group, rounding=rounding)
        if "group" in self.needs and group is None:
            raise ValueError(f"group: the {self.name} set needs the group of each pair")
        values, prior = nominal_law(losses, weight)
        if rounding is not None:
            values = tied(values, rounding)
        if bool(torch.isnan(values).any()):
            return _robust_value(losses, prior, WorstLaw(probabilities=prior))
        return _robust_value(losses, prior, worst_law(values, prior, None if group is None else group.to("cpu")))

    def _learn(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        """The worst law of a training step, and what is learnt on the way."""
        return self._worst_law(losses, prior, group)

    @abstractmethod
    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        """The worst law of fp64 losses ``[N]`` near ``prior`` ``[N]``, which sums to 1."""


def nominal_law(losses: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses and prior probabilities, uniform without weights, both ``[N]`` in fp64 on the CPU.

    Where the prior is 0 the loss is replaced by that of another pair, so that it cannot matter.
    """
    values = losses.detach().to("cpu", torch.float64)
    if weight is None:
        return values, torch.full_like(values, 1.0 / len(values))
    law = weight.detach().to("cpu", torch.float64)
    if not bool((law >= 0).all()) or not 0 < float(law.max()) < math.inf:
        raise ValueError("weight: prior weights must be finite, >= 0 and not all 0")
    law = law / law.max()
    return torch.where(law > 0, values, values[law.argmax()]), law / law.sum()


def tied(values: Tensor, rounding: Tensor) -> Tensor:
    """The values ``[N]``; or, where rounding alone may tell them apart, their mean for all.

    A worst law depends on how losses lie to each other, not on their scale: where a policy still agrees with its
    reference, it would put all its mass on whatever was rounded up.

    Args:
        values: ``[N]``.
        rounding: ``[N]``, how far each value may be off; a range of up to twice the largest is no difference.
    """
    spread = float(values.max() - values.min())
    if not 0 < spread <= 2 * float(rounding.max()):
        return values
    return torch.full_like(values, float(values.mean()))


def weighted_mean(values: Tensor, law: Tensor) -> Tensor:
    """sum_i law_i values_i, 0-dim, for a law that sums to 1; exactly the value where all values are equal."""
    origin = values[0]
    return origin + (law * (values - origin)).sum()


def stand_in(losses: Tensor) -> Tensor:
    """Finite losses with the same worst law as infinite ones: the limit L -> inf of losses L and -L, to leading
    order."""
    infinite = torch.isinf(losses)
    return torch.where(infinite, losses.sign(), 0.0) if bool(infinite.any()) else losses


def on_the_largest(losses: Tensor, prior: Tensor) -> Tensor:
    """The nominal law given that the loss is the largest; ties share."""
    law = prior * (losses == losses.max())
    return law / law.sum()


def _check_columns(losses: Tensor, **columns: Tensor | None) -> None:
    if losses.ndim != 1 or not len(losses):
        raise ValueError(f"losses: shape {tuple(losses.shape)} is not [N] with N >= 1")
    for name, value in columns.items():
        if value is not None and (value.shape[:1] != losses.shape or value.ndim > (2 if name == "group" else 1)):
            raise ValueError(f"{name}: shape {tuple(value.shape)} differs from the losses' {tuple(losses.shape)}")


def _robust_value(losses: Tensor, prior: Tensor, law: WorstLaw) -> RobustValue:
    dtype = torch.promote_types(losses.dtype, torch.float32)
    weights = (law.probabilities * len(losses)).to(losses.device, dtype)
    # A pair without weight may have an infinite loss: 0 * inf must not reach the sum. Summed in fp64, where the
    # largest numbers of the losses' dtype have room.
    terms, law_here = losses.double().masked_fill(weights == 0, 0.0), law.probabilities.to(losses.device)
    if bool(torch.isinf(terms).any()):  # L beside -L, as L -> inf
        net = (law_here * stand_in(terms.detach())).sum()
        terms = torch.where(torch.isinf(terms), math.copysign(math.inf, net) if net != 0 else 0.0, terms)
    value = ((law_here * len(losses) * terms).sum() / len(losses)).to(dtype)
    total, squares = float(law.probabilities.sum()), float(law.probabilities.square().sum())
    return RobustValue(
        value=value,
        weights=weights,
        dual=law.dual,
        ess=total * total / squares if squares > 0 else 0.0,
        divergence=law.divergence,
        n=int((prior > 0).sum()),
        clamped=law.clamped,
    )
