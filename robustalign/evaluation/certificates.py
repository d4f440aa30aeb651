"""Worst-case certificates: how bad a policy's held-out loss can get within a distance of the nominal law.

A ball's certificate is sup over laws P in the ball around the held-out pairs of E_P[l], by the same ambiguity sets
that train. It holds for every population that re-weights these pairs within the radius, whoever the policy was trained
for; it says nothing about pairs that were not drawn. Beside each curve stand two controls: the *reference*, whose loss
is ln 2 under every law, and the policy with its margins *shrunk* by a factor c. Beyond a moderate radius the first, and
often the second, beats every trained policy; a certificate that does not beat both shows a shorter step, not
robustness.

A table has one row for each set, radius and control. ``radius`` is in the unit of its ball (``BALLS``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
import torch

from robustalign.evaluation.controls import REFERENCE, TRAINED, shrunk
from robustalign.evaluation.metrics import METRICS
from robustalign.evaluation.targets import resample_weights
from robustalign.objectives import AmbiguitySet, ChiSquareBall, CVaR, KLBall, SigmoidLoss, TVBall
from robustalign.shifts import Pairs, Populations


def _kl(ratio: np.ndarray, nominal: np.ndarray) -> float:
    law = nominal * ratio
    return float(np.where(ratio > 0, law * np.log(np.maximum(ratio, 1e-300)), 0.0).sum())


@dataclass(frozen=True)
class Ball:
    """Laws within a radius of the nominal one."""

    of: Callable[[float], AmbiguitySet]
    """The ambiguity set of a radius."""
    distance: Callable[[np.ndarray, np.ndarray], float]
    """``(dP/dQ [N], Q [N])``: the radius at which a law P that has no mass outside Q enters the ball."""
    radii: tuple[float, ...]
    """Of the curves in a run's results."""
    unit: str
    """Of the radius, for axes: as the set's class declares it, or what stands in its place."""
    mutual: bool = False
    """Whether a law may have mass where the nominal law has none."""


def _unit(kind: type[AmbiguitySet]) -> str:
    return next(knob.unit for knob in kind.knobs if knob.field == "radius")


BALLS: Mapping[str, Ball] = {
    "kl": Ball(lambda radius: KLBall(radius=radius), _kl, (0.03, 0.1, 0.3, 1.0), _unit(KLBall)),
    "chi_square": Ball(
        lambda radius: ChiSquareBall(radius=radius),
        lambda ratio, nominal: float((nominal * (ratio - 1) ** 2).sum()) / 2,
        (0.03, 0.1, 0.3, 1.0),
        _unit(ChiSquareBall),
    ),
    "tv": Ball(
        lambda radius: TVBall(radius=radius),
        lambda ratio, nominal: min(float((nominal * np.maximum(1 - ratio, 0.0)).sum()), 1.0),  # rounding aside
        (0.05, 0.1, 0.2, 0.4),
        _unit(TVBall),
        mutual=True,
    ),
    "cvar": Ball(
        lambda radius: CVaR(alpha=1 / radius),
        lambda ratio, nominal: max(float(ratio.max()), 1.0),
        (1.25, 2.0, 5.0, 10.0),
        "largest weight of a pair, 1 / alpha",
    ),
}
RADII: Mapping[str, tuple[float, ...]] = {name: ball.radii for name, ball in BALLS.items()}
LOSS = METRICS["loss"]
COLUMNS = ("control", "set", "radius", "value", "low", "high", "n", "target", "realised")
Losses = Mapping[str, np.ndarray]  # control -> losses [N]


def control_losses(margins: np.ndarray, beta: float, shrinkage: Iterable[float] = (0.5,)) -> dict[str, np.ndarray]:
    """DPO losses ``[N]`` of the policy, the reference (margin 0) and the policy with margins times each c.

    Args:
        margins: ``[N]`` log-ratio of chosen minus log-ratio of rejected, nats.
        beta: DPO's.
        shrinkage: factors c in [0, 1].
    """
    loss, margins = SigmoidLoss(beta=beta), np.asarray(margins, float)
    controls = (TRAINED, REFERENCE, *map(shrunk, shrinkage))
    return {str(c): loss.losses(torch.from_numpy(c.factor * margins)).numpy() for c in controls}


def certificate(losses: np.ndarray, name: str, radius: float, weight: np.ndarray | None = None) -> float:
    """The worst-case mean of ``losses [N]`` over the ball ``name`` of ``BALLS``; nan where the radius is not finite.

    ``weight [N]`` >= 0 is the nominal law, on any scale; uniform by default.
    """
    if not math.isfinite(radius):
        return math.nan
    prior = None if weight is None else torch.from_numpy(np.asarray(weight, float))
    return float(BALLS[name].of(radius).worst_case(torch.from_numpy(losses), weight=prior).value)


def certificate_table(
    losses: Losses,
    prompt: np.ndarray,
    *,
    weight: np.ndarray | None = None,
    radii: Mapping[str, Sequence[float]] = RADII,
    draws: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Certificates as curves over the radius, of several policies on the same held-out pairs.

    Args:
        losses: per control ``[N]``, such as :func:`control_losses` gives.
        prompt: ``[N]`` the prompt of each pair; prompts are what is resampled, the same ones for all controls.
        weight: ``[N]`` nominal weights.
        radii: per set of ``BALLS``.
        draws: bootstrap resamples, each of which solves every ball anew.
        confidence: of the interval ``value -+ z`` standard deviations of the draws. A percentile interval would sit too
            low: a resample misses some of the largest losses.

    Returns:
        One row per set, radius and control: ``COLUMNS``, with ``n`` pairs; ``target`` is '' and ``realised`` nan.
    """
    _, index = np.unique(prompt, return_inverse=True)
    nominal = np.ones(len(index)) if weight is None else np.asarray(weight, float)
    counts = resample_weights(int(index.max()) + 1, draws, seed)[:, index]
    z, size = NormalDist().inv_cdf((1 + confidence) / 2), int((nominal > 0).sum())
    rows = []
    for name, along in radii.items():
        for radius in along:
            for control, values in losses.items():
                value, *again = [certificate(values, name, radius, law) for law in _laws(values, nominal, counts)]
                half = z * float(np.std(again, ddof=1)) if len(again) > 1 else 0.0
                rows.append((control, name, radius, value, value - half, value + half, size, "", math.nan))
    return pd.DataFrame(rows, columns=COLUMNS)


def _laws(losses: np.ndarray, nominal: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The nominal law and its resamples that matter: equal losses have the same worst case under every law."""
    laws = nominal * (counts if np.ptp(losses) > 0 else counts[:1])
    return laws[laws.sum(1) > 0]


def target_table(
    losses: Losses,
    weight: np.ndarray,
    targets: Mapping[str, np.ndarray],
    balls: Sequence[str] = tuple(BALLS),
) -> pd.DataFrame:
    """Per target: how far it is from the nominal law, the loss it really has, and the certificate at that distance.

    A target is a re-weighting of the same pairs and so lies on the boundary of its own ball: ``realised`` <=
    ``value`` holds exactly, and the gap is what the certificate pays for not knowing the direction.

    Args:
        losses: per control ``[N]``.
        weight: ``[N]`` nominal weights > 0 of the pairs that count, on any scale.
        targets: per target its weights ``[N]``, on any scale.

    Returns:
        Rows of ``COLUMNS`` per target, set and control; ``low`` and ``high`` are nan. Radius inf and value nan where
        the target has pairs that the nominal law has not.
    """
    rows, size = [], int((np.asarray(weight) > 0).sum())
    for target, target_shares in targets.items():
        distance = divergences(target_shares, weight)
        for name in balls:
            for control, values in losses.items():
                value = certificate(values, name, distance[name], weight)
                realised = float(np.average(values, weights=target_shares))
                empty = (math.nan, math.nan)
                rows.append((control, name, distance[name], value, *empty, size, target, realised))
    return pd.DataFrame(rows, columns=COLUMNS)


def divergences(law: np.ndarray, nominal: np.ndarray) -> dict[str, float]:
    """The distance of ``law`` from ``nominal``, both ``[N]`` on any scale, in the unit of each ball; inf where the ball
    of no radius holds it."""
    p, q = np.asarray(law, float) / np.sum(law), np.asarray(nominal, float) / np.sum(nominal)
    outside, inside = bool((p[q == 0] > 0).any()), q > 0
    ratio = p[inside] / q[inside]
    return {
        name: math.inf if outside and not ball.mutual else max(ball.distance(ratio, q[inside]), 0.0)
        for name, ball in BALLS.items()
    }


def held_out_certificates(
    pairs: Sequence[Pairs],
    shift: Populations,
    logratios: np.ndarray,
    beta: float,
    *,
    draws: int = 20,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Both tables for the held-out pairs of a run: the nominal population's law, and the targets as re-weightings.

    Args:
        pairs: each component's, in the order of ``shift.components``.
        shift: whose shares weigh the components; a component without pairs is left out.
        logratios: ``[P, n]`` log pi / ref of every candidate that a pair touches.
        beta: DPO's.
        draws: bootstrap resamples; 20 give the interval's width to one part in six.
        confidence: of the interval.
    """
    sizes = np.array([len(part) for part in pairs])
    owner = np.repeat(np.arange(len(pairs)), sizes)
    joined = Pairs.concatenate(pairs)
    margins = logratios[joined.prompt, joined.chosen] - logratios[joined.prompt, joined.rejected]
    losses, nominal = control_losses(margins, beta), shift.shares()[owner] / sizes[owner]
    if not nominal.any():
        return pd.DataFrame(columns=COLUMNS)
    targets = {name: shift.shares(name)[owner] / sizes[owner] for name in shift.names}
    targets = {name: law for name, law in targets.items() if law.any()}
    curves = certificate_table(losses, joined.prompt, weight=nominal, draws=draws, confidence=confidence)
    curves["low"] = curves["low"].clip(lower=LOSS.low)
    at_targets = target_table(losses, nominal, targets)
    return pd.concat([curves, at_targets], ignore_index=True) if len(at_targets) else curves
