"""How fast DPO, KLDPO and WDPO learn: estimation error and worst-case loss against the number of pairs.

At a fixed radius an estimator is measured against the optimum of its own robust objective over the population; at a
shrinking radius, rho_n = rho n_0 / n nats for KL and rho sqrt(n_0 / n) for Wasserstein, against the nominal theta*.
The theory gives n^(-1/2) for DPO and at least n^(-1/4) for the robust ones (arXiv 2502.01930, Prop. 1, Thms. 1, 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustalign.theory.log_linear import LogLinear, Objective, fit

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
FIXED, SHRINKING = "fixed", "shrinking"


@dataclass(frozen=True)
class Settings:
    """The experiment; the defaults are those of the documented figures."""

    dimension: int = 5
    norm: float = 4.0
    """Length of theta*; with beta = 1 the margins have a standard deviation of about 2.1."""
    radii: tuple[float, float] = (0.1, 0.1)
    """Of the KL ball in nats, and of the Wasserstein ball in units of x, whose root mean square is 1.2."""
    sizes: tuple[int, ...] = SIZES
    seeds: int = 20
    points: int = 2**16
    """Sobol points of the population."""
    adversary: float = 0.1
    """Nats within which the worst-case loss is taken."""

    @property
    def model(self) -> LogLinear:
        direction = torch.linspace(1, 2, self.dimension, dtype=torch.float64)
        return LogLinear(truth=self.norm * direction / direction.norm())

    def objectives(self, n: int) -> dict[tuple[str, str], Objective]:
        """Per (method, radius rule) what is minimised with ``n`` pairs."""
        model, (kl, wasserstein) = self.model, self.radii
        shrink = self.sizes[0] / n
        return {
            ("dpo", ""): model.dpo(),
            ("kldpo", FIXED): model.kldpo(kl),
            ("kldpo", SHRINKING): model.kldpo(kl * shrink),
            ("wdpo", FIXED): model.wdpo(wasserstein),
            ("wdpo", SHRINKING): model.wdpo(wasserstein * math.sqrt(shrink)),
        }

    def optima(self, seed: int = 0) -> dict[tuple[str, str], Tensor]:
        """Per method and rule, what its estimates tend to: the robust optimum at a fixed radius, else theta*."""
        model, population = self.model, self.model.population(self.points, seed)
        optima = {}
        for key, objective in self.objectives(self.sizes[0]).items():
            optima[key] = fit(objective, population, start=model.truth) if key[1] == FIXED else model.truth
        return optima


def measure(settings: Settings) -> pd.DataFrame:
    """One row per method, radius rule, n and seed: ``error`` = |theta_n - its optimum|, and ``worst``, the population's
    loss under the worst re-weighting within ``settings.adversary`` nats, beside ``best``, the least that any theta has.
    """
    model, optima = settings.model, settings.optima()
    judge = model.population(2**13, seed=1)
    best = fit(model.kldpo(settings.adversary), judge, start=model.truth)
    least = model.worst_loss(best, judge, settings.adversary)
    rows = []
    for n in settings.sizes:
        for seed in range(settings.seeds):
            data = model.sample(n, seed=seed * 1_000_003 + n)
            for (method, rule), objective in settings.objectives(n).items():
                theta = fit(objective, data)
                error = float((theta - optima[method, rule]).norm())
                worst = model.worst_loss(theta, judge, settings.adversary)
                rows.append((method, rule, n, seed, error, worst, least))
    return pd.DataFrame(rows, columns=["method", "radius", "n", "seed", "error", "worst", "best"])


def slopes(table: pd.DataFrame, draws: int = 2000, confidence: float = 0.95) -> pd.DataFrame:
    """Per method and radius rule the slope of log root-mean-square error against log n, with a bootstrap interval over
    seeds; columns ``method``, ``radius``, ``slope``, ``low``, ``high``."""
    rows = []
    for (method, rule), part in table.groupby(["method", "radius"], sort=False):
        errors = part.pivot(index="seed", columns="n", values="error")
        estimates = _slopes(np.asarray(errors.columns, float), errors.to_numpy(), draws)
        tail = (1 - confidence) / 2
        rows.append((method, rule, estimates[0], *np.quantile(estimates[1:], [tail, 1 - tail])))
    return pd.DataFrame(rows, columns=["method", "radius", "slope", "low", "high"])


def _slopes(sizes: np.ndarray, errors: np.ndarray, draws: int) -> np.ndarray:
    """``[1 + draws]`` least-squares slopes from errors ``[seeds, sizes]``: the sample's, then those of resamples; seeds
    are resampled apart for each size, as their data are independent."""
    rng = np.random.default_rng(0)
    count, width = errors.shape
    chosen = rng.integers(count, size=(draws, count, width))
    chosen = np.concatenate([np.broadcast_to(np.arange(count)[None, :, None], (1, count, width)), chosen])
    rms = np.sqrt((np.take_along_axis(errors[None], chosen, 1) ** 2).mean(1))
    x = np.log(sizes) - np.log(sizes).mean()
    return np.log(rms) @ x / (x @ x)


Curves = Mapping[tuple[str, str], Sequence[np.ndarray]]


def summary(table: pd.DataFrame, value: str, confidence: float = 0.95) -> Curves:
    """Per method and rule: n, the mean of ``value`` over seeds, and its standard error times the normal quantile."""
    z, rows = NormalDist().inv_cdf((1 + confidence) / 2), {}
    for (method, rule), part in table.groupby(["method", "radius"], sort=False):
        by = part.groupby("n")[value].agg(["mean", "sem"])
        rows[str(method), str(rule)] = (by.index.to_numpy(), by["mean"].to_numpy(), z * by["sem"].to_numpy())
    return rows
