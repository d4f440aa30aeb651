"""Worst-case certificates: how bad a policy's held-out loss can get within a distance of the nominal law.

A ball's certificate is sup over laws P in the ball around the held-out pairs of E_P[l], by the same ambiguity sets
that train. It holds for every population that re-weights these pairs within the radius, whoever the policy was trained
by; it says nothing about pairs that were not drawn. Beside each curve stand two controls: the *reference*, whose loss
is ln 2 under every law, and the policy with its margins *shrunk* by a factor c. Beyond a moderate radius the first, and
often the second, beats every trained policy; a certificate that does not beat both shows a shorter step, no robustness.

A table has one row per set, radius and control. ``radius`` is in the set's own unit: nats (``kl``), E(dP/dQ - 1)^2 / 2
(``chi_square``), share of the mass (``tv``), largest dP/dQ, which is 1 / alpha (``cvar``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from robustalign.evaluation.targets import resample_weights
from robustalign.objectives import AmbiguitySet, ChiSquareBall, CVaR, KLBall, SigmoidLoss, TVBall, WassersteinBall
from robustalign.policies.logprobs import Rows, sequence_logps, unwrapped
from robustalign.shifts import Pairs, Populations

BALLS: Mapping[str, Callable[[float], AmbiguitySet]] = {
    "kl": lambda radius: KLBall(radius=radius),
    "chi_square": lambda radius: ChiSquareBall(radius=radius),
    "tv": lambda radius: TVBall(radius=radius),
    "cvar": lambda radius: CVaR(alpha=1 / radius),
}
RADII: Mapping[str, tuple[float, ...]] = {
    "kl": (0.03, 0.1, 0.3, 1.0),
    "chi_square": (0.03, 0.1, 0.3, 1.0),
    "tv": (0.05, 0.1, 0.2, 0.4),
    "cvar": (1.25, 2.0, 5.0, 10.0),
}
COLUMNS = ("control", "set", "radius", "value", "low", "high", "n", "target", "realised")
Losses = Mapping[str, np.ndarray]  # control -> losses [N]


def control_losses(margins: np.ndarray, beta: float, shrinkage: Iterable[float] = (0.5,)) -> dict[str, np.ndarray]:
    """DPO losses ``[N]`` of the policy, the reference (margin 0) and the policy with margins times each c.

    Args:
        margins: ``[N]`` log-ratio of chosen minus log-ratio of rejected, nats.
        beta: DPO's.
        shrinkage: factors c in [0, 1].
    """
    factors = {"policy": 1.0, "reference": 0.0} | {f"shrink_{c:g}": c for c in shrinkage}
    loss = SigmoidLoss(beta=beta)
    return {name: loss.losses(torch.from_numpy(c * np.asarray(margins, float))).numpy() for name, c in factors.items()}


def certificate(losses: np.ndarray, name: str, radius: float, weight: np.ndarray | None = None) -> float:
    """The worst-case mean of ``losses [N]`` over the ball ``name`` of ``BALLS``; nan where the radius is not finite.

    ``weight [N]`` >= 0 is the nominal law, on any scale; uniform by default.
    """
    if not math.isfinite(radius):
        return math.nan
    prior = None if weight is None else torch.from_numpy(np.asarray(weight, float))
    return float(BALLS[name](radius).worst_case(torch.from_numpy(losses), weight=prior).value)


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
    for target, wanted in targets.items():
        distance = divergences(wanted, weight)
        for name in balls:
            for control, values in losses.items():
                value = certificate(values, name, distance[name], weight)
                realised = float(np.average(values, weights=wanted))
                empty = (math.nan, math.nan)
                rows.append((control, name, distance[name], value, *empty, size, target, realised))
    return pd.DataFrame(rows, columns=COLUMNS)


def divergences(law: np.ndarray, nominal: np.ndarray) -> dict[str, float]:
    """The distance of ``law`` from ``nominal``, both ``[N]`` on any scale, in the unit of each ball."""
    p, q = np.asarray(law, float) / np.sum(law), np.asarray(nominal, float) / np.sum(nominal)
    outside, inside = bool((p[q == 0] > 0).any()), q > 0
    ratio = p[inside] / q[inside]
    found = {
        "kl": float(np.where(ratio > 0, p[inside] * np.log(np.maximum(ratio, 1e-300)), 0.0).sum()),
        "chi_square": float((q[inside] * (ratio - 1) ** 2).sum()) / 2,
        "cvar": max(float(ratio.max()), 1.0),
    }
    found = {name: math.inf if outside else max(value, 0.0) for name, value in found.items()}
    return found | {"tv": min(float(np.abs(p - q).sum()) / 2, 1.0)}  # two laws apart can sum to a hair above 2


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
    found = target_table(losses, nominal, targets)
    return pd.concat([curves, found], ignore_index=True) if len(found) else curves


def wasserstein_bracket(
    model: nn.Module,
    rows: Rows,
    reference: Tensor,
    *,
    beta: float,
    radii: Sequence[float],
    steps: int = 10,
    prompt: str = "joint",
) -> pd.DataFrame:
    """The worst case over a Wasserstein ball around embedded pairs, from below and to first order.

    ``low`` is the loss at displaced inputs that a projected gradient ascent found: a law in the ball, so a true lower
    bound of the supremum over continuous embeddings. ``first_order`` is E[l] + rho sqrt(E||g||^2) (arXiv 2502.01930,
    Eq. 7): what WDPO trains on. It is exact as the radius goes to 0 and no bound beyond: where the loss curves upwards
    ``low`` passes it. Neither is a certificate over texts, as embeddings between those of tokens are nobody's words.

    Args:
        model: the policy; all rows go through it at once.
        rows: ``2B`` rows, the chosen completions of ``B`` pairs and then their rejected ones.
        reference: ``[2B]`` reference log-probabilities, nats.
        beta: DPO's.
        radii: displacement's rms over the embeddings' rms (``WassersteinBall``'s unit ``relative``).
        steps: of the ascent, from the first-order worst case.
        prompt: ``joint`` or ``per_sequence``, as in ``WassersteinBall``.

    Returns:
        Columns ``radius``, ``nominal``, ``low``, ``first_order`` (nats) and ``n``, the pairs.
    """
    embeddings = unwrapped(model).get_input_embeddings()(rows.ids).detach()
    table = []
    for radius in radii:
        ball = WassersteinBall(radius=radius, prompt=prompt)
        ascent = _Ascent(model, rows, reference.to(embeddings), beta, ball, embeddings)
        nominal, gradient = ascent.at(torch.zeros_like(embeddings))
        stats = ball.statistics(gradient, embeddings, rows.attention, rows.prompt)
        best, offset = nominal, torch.zeros_like(embeddings)
        for _ in range(steps if radius > 0 else 0):
            offset = ascent.projected(offset + ascent.projected(gradient))
            value, gradient = ascent.at(offset)
            best = max(best, value)
        table.append((radius, nominal, best, nominal + float(ball.penalty(stats)), len(rows.ids) // 2))
    return pd.DataFrame(table, columns=["radius", "nominal", "low", "first_order", "n"])


class _Ascent:
    """Loss and input gradient at displaced inputs, and the projection of a displacement to the radius."""

    def __init__(
        self, model: nn.Module, rows: Rows, reference: Tensor, beta: float, ball: WassersteinBall, embeddings: Tensor
    ) -> None:
        self.model, self.rows, self.reference, self.loss = model, rows, reference, SigmoidLoss(beta=beta)
        self.ball, self.embeddings = ball, embeddings

    def at(self, offset: Tensor) -> tuple[float, Tensor]:
        """The mean loss, and the gradient of each pair's loss ``[2B, T, D]``."""
        moved = offset.detach().requires_grad_()
        chosen, rejected = (sequence_logps(self.model, self.rows, moved) - self.reference).chunk(2)
        losses = self.loss.losses(chosen - rejected)
        (gradient,) = torch.autograd.grad(losses.sum(), moved)
        return float(losses.detach().mean()), self.ball.joint(gradient, self.rows.prompt)

    def projected(self, direction: Tensor) -> Tensor:
        """The displacement along ``direction`` with mean square radius^2 over pairs; 0 where the direction is 0."""
        stats = self.ball.statistics(direction, self.embeddings, self.rows.attention, self.rows.prompt)
        size = float((stats.gradient_square / stats.pairs).sqrt())
        return direction * (float(self.ball.absolute_radius(stats)) / size) if size > 0 else torch.zeros_like(direction)
