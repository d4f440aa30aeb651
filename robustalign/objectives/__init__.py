"""Distributionally robust preference optimisation as pure functions of tensors.

A method is a pair loss, which turns the margin of each pair into a loss ``[N]``, and an ambiguity set, which turns
the losses of a whole batch into their worst case:

>>> losses = SigmoidLoss(beta=0.1).losses(margin)
>>> robust = KLBall(radius=0.1).worst_case(losses)
>>> robust.value.backward()

Needs torch and nothing else. ``LOSSES`` and ``SETS`` hold every loss and set by name; their dataclass fields are
the config keys. A new loss or set is one new module in ``losses/`` or ``sets/``.
"""

from __future__ import annotations

from robustalign.objectives.ambiguity_set import AmbiguitySet, RobustValue
from robustalign.objectives.losses.sigmoid import SigmoidLoss
from robustalign.objectives.pair_loss import PairLoss
from robustalign.objectives.registry import discover
from robustalign.objectives.sets.kl import KLBall
from robustalign.objectives.sets.nominal import Nominal
from robustalign.objectives.sets.wasserstein import InputStatistics, WassersteinBall
from robustalign.objectives.solve import radius_for_temperature, temperature_for_radius
from robustalign.objectives.terms import PairTerms

LOSSES = discover("robustalign.objectives.losses", PairLoss)  # type: ignore[type-abstract]
SETS = discover("robustalign.objectives.sets", AmbiguitySet)  # type: ignore[type-abstract]

__all__ = [
    "LOSSES",
    "SETS",
    "AmbiguitySet",
    "InputStatistics",
    "KLBall",
    "Nominal",
    "PairLoss",
    "PairTerms",
    "RobustValue",
    "SigmoidLoss",
    "WassersteinBall",
    "radius_for_temperature",
    "temperature_for_radius",
]
