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

from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob, RobustValue
from robustalign.objectives.losses.apo import APODownLoss, APOZeroLoss
from robustalign.objectives.losses.beta_dpo import BetaDPOLoss
from robustalign.objectives.losses.chi_po import ChiPOLoss
from robustalign.objectives.losses.dpo_pro import DPOProLoss
from robustalign.objectives.losses.hinge import HingeLoss
from robustalign.objectives.losses.holder import HolderLoss
from robustalign.objectives.losses.ipo import IPOLoss
from robustalign.objectives.losses.mixed_logit import MixedLogitLoss
from robustalign.objectives.losses.noisy_labels import ConservativeLoss, UnbiasedLoss
from robustalign.objectives.losses.sigmoid import SigmoidLoss
from robustalign.objectives.losses.simpo import SimPOLoss
from robustalign.objectives.losses.wpo import WPOLoss
from robustalign.objectives.pair_loss import Adapted, AdaptiveLoss, PairLoss
from robustalign.objectives.registry import discover
from robustalign.objectives.sets.chi_square import ChiSquareBall
from robustalign.objectives.sets.cvar import CVaR
from robustalign.objectives.sets.group import GroupBall
from robustalign.objectives.sets.kl import KLBall
from robustalign.objectives.sets.nominal import Nominal
from robustalign.objectives.sets.output_layer import OutputLayerBall
from robustalign.objectives.sets.tv import TVBall
from robustalign.objectives.sets.wasserstein import InputStatistics, WassersteinBall
from robustalign.objectives.solve import radius_for_temperature, temperature_for_radius
from robustalign.objectives.terms import PairTerms

LOSSES = discover("robustalign.objectives.losses", PairLoss)  # type: ignore[type-abstract]
SETS = discover("robustalign.objectives.sets", AmbiguitySet)  # type: ignore[type-abstract]

__all__ = [
    "LOSSES",
    "SETS",
    "APODownLoss",
    "APOZeroLoss",
    "Adapted",
    "AdaptiveLoss",
    "AmbiguitySet",
    "BetaDPOLoss",
    "CVaR",
    "ChiPOLoss",
    "ChiSquareBall",
    "ConservativeLoss",
    "DPOProLoss",
    "GroupBall",
    "HingeLoss",
    "HolderLoss",
    "IPOLoss",
    "InputStatistics",
    "KLBall",
    "Knob",
    "MixedLogitLoss",
    "Nominal",
    "OutputLayerBall",
    "PairLoss",
    "PairTerms",
    "RobustValue",
    "SigmoidLoss",
    "SimPOLoss",
    "TVBall",
    "UnbiasedLoss",
    "WPOLoss",
    "WassersteinBall",
    "radius_for_temperature",
    "temperature_for_radius",
]
