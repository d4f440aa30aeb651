"""Which method helps under which shift, where everything can be computed: log-linear policies and known people.

People of a group k answer pairs by Bradley-Terry with a taste t_k; a policy is theta with the margin theta . x, as in
``robustalign.theory.log_linear``. What a policy is worth to a group is what it gains over a toss of a coin when it
chooses one of two replies itself, over what the group's own taste would gain by always being right:

    V_k(theta) = E[(2 sigma(theta . x) - 1) t_k . x] / E[|t_k . x|], in [-1, 1].

Every cell carries the control that a smaller step is: dpo's own theta, made as long as the method's. In this class the
length of theta is the distance from the reference, so both have the same KL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robustalign.groups.evidence import weigh_evidence
from robustalign.groups.grouping import PairData
from robustalign.groups.methods.overlooked import Overlooked
from robustalign.groups.pair_groups import weights_of_mass
from robustalign.objectives import (
    AmbiguitySet,
    ChiSquareBall,
    CVaR,
    GroupBall,
    KLBall,
    Nominal,
    SigmoidLoss,
    UnbiasedLoss,
)
from robustalign.theory.log_linear import LogLinear, Objective, Sample, differences, fit

DIMENSION, LENGTH = 6, 4.0  # of features, and of a taste
MASS = 0.3  # total weight of the pairs that overlooked and jtt find
RIDGE = 1e-3  # keeps separable data from an infinite theta
EARLY = 3  # gradient steps of jtt's first run
POINTS = 2**13  # Sobol points of the law of pairs


@dataclass(frozen=True)
class People:
    """A group: its ``taste [D]``, the share of its labels that are ``flipped``, their ``temperature``, and where a
    policy can tell whom it serves, the ``block`` of features in which its pairs lie."""

    taste: np.ndarray
    flipped: float = 0.0
    temperature: float = 1.0
    block: int | None = None


@dataclass(frozen=True)
class World:
    """A shift: ``people``, their shares in ``training``, and in each of the ``targets``."""

    name: str
    people: tuple[People, ...]
    training: tuple[float, ...]
    targets: Mapping[str, tuple[float, ...]]
    pairs: int = 400


@dataclass(frozen=True)
class Pairs:
    """Training pairs: ``features [N, D]`` of chosen minus rejected, the ``group [N]`` that labelled each."""

    features: Tensor
    group: np.ndarray


Method = Callable[[World, Pairs, int], Tensor]
"""From the training pairs, and a seed for whatever it draws itself, to theta ``[D]``."""


def axis(*weights: float) -> np.ndarray:
    """A taste of the usual length in a direction of the first features."""
    taste = np.zeros(DIMENSION)
    taste[: len(weights)] = weights
    return LENGTH * taste / np.linalg.norm(taste)


def turned(degrees: float) -> np.ndarray:
    """A taste at an angle to the first axis."""
    return axis(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def worlds() -> list[World]:
    """The shifts of the atlas, in the order of its rows."""
    one, other = People(axis(1)), People(axis(0, 1))
    each = {"first": (1.0, 0.0), "second": (0.0, 1.0)}
    drift = tuple(People(turned(angle)) for angle in (0, 30, 60, 90))
    named = People(axis(1), block=0), People(axis(0, 1), block=1)
    liked = People(axis(1, 0.7)), People(axis(1, -0.7))  # the second feature is length
    return [
        World("none", (one,), (1.0,), {"same": (1.0,)}),
        World("minority of 10 %", (one, other), (0.9, 0.1), each),
        World("minority of 30 %", (one, other), (0.7, 0.3), each),
        World("minority that wants the opposite, 20 %", (one, People(axis(-1))), (0.8, 0.2), each),
        World("30 % of labels flipped", (People(axis(1), flipped=0.3),), (1.0,), {"clean": (1.0,)}),
        World("minority of 20 % with 30 % flipped", (one, People(axis(0, 1), flipped=0.3)), (0.8, 0.2), each),
        World("10 % that toss coins", (one, People(axis(1), flipped=0.5)), (0.9, 0.1), {"clean": (1.0, 0.0)}),
        World("undecided annotators", (People(axis(1), temperature=4.0),), (1.0,), {"decided": (1.0,)}),
        World("minority of 10 % that prompts name", named, (0.9, 0.1), each),
        World("length is liked, then not", liked, (1.0, 0.0), each),
        World("drift", drift, (0.6, 0.3, 0.1, 0.0), {"next": (0.0, 0.0, 0.5, 0.5), "last": (0.0, 0.0, 0.0, 1.0)}),
    ]


def in_block(world: World, k: int, vectors: Tensor) -> Tensor:
    """Vectors ``[..., D]`` of a group in the features of all: its block of them, others 0; all where there are none."""
    blocks = 1 + max((people.block or 0) for people in world.people)
    if blocks == 1:
        return vectors
    place = int(world.people[k].block or 0) * DIMENSION
    whole = vectors.new_zeros(*vectors.shape[:-1], blocks * DIMENSION)
    whole[..., place : place + DIMENSION] = vectors
    return whole


def draw(world: World, shares: tuple[float, ...], seed: int) -> Pairs:
    """Pairs labelled by people in these shares, independent of those of any other seed."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    group = rng.choice(len(shares), size=world.pairs, p=shares)
    uniform = torch.rand(world.pairs, 2 * (DIMENSION + 1), generator=generator, dtype=torch.float64)
    plain = differences(uniform)
    tastes = np.stack([people.taste for people in world.people])
    heat, flipped = (np.array([getattr(p, name) for p in world.people])[group] for name in ("temperature", "flipped"))
    first = rng.random(world.pairs) < 1 / (1 + np.exp(-(plain.numpy() * tastes[group]).sum(1) / heat))
    first ^= rng.random(world.pairs) < flipped
    chosen = torch.where(torch.from_numpy(first)[:, None], plain, -plain)
    x = torch.stack([in_block(world, k, row) for k, row in zip(group, chosen, strict=True)])
    return Pairs(x, group)


def worth(world: World, thetas: Tensor) -> np.ndarray:
    """``[T, K]`` V_k of each of ``thetas [T, D]``."""
    engine = torch.quasirandom.SobolEngine(2 * (DIMENSION + 1), scramble=True, seed=1)
    plain = differences(engine.draw(POINTS, dtype=torch.float64))
    columns = []
    for k, people in enumerate(world.people):
        utility = plain @ torch.from_numpy(people.taste)
        share = torch.sigmoid(thetas @ in_block(world, k, plain).T)
        columns.append(((2 * share - 1) * utility).mean(1) / utility.abs().mean())
    return torch.stack(columns, 1).numpy()


def minimiser(pairs: Pairs, objective: Objective) -> Tensor:
    """The theta ``[D]`` of the least objective, with a ridge; the pairs are equally likely."""
    law = torch.full((len(pairs.group),), 1 / len(pairs.group), dtype=torch.float64)
    ridged: Objective = lambda theta, data: objective(theta, data) + RIDGE * theta.square().sum()  # noqa: E731
    return fit(ridged, Sample(pairs.features, law))


def of_margins(value: Callable[[Tensor], Tensor]) -> Objective:
    """The objective that a function of the margins ``[N]`` is."""
    return lambda theta, data: value(data.features @ theta)


LOSS = SigmoidLoss(beta=1.0)


def reweighted(ball: AmbiguitySet, of_groups: bool = False) -> Method:
    """The worst case of dpo's losses over a set."""

    def method(world: World, pairs: Pairs, seed: int) -> Tensor:
        group = torch.from_numpy(pairs.group) if of_groups else None
        return minimiser(pairs, of_margins(lambda margin: ball.worst_case(LOSS.losses(margin), group=group).value))

    return method


def weighted(weights: Callable[[World, Pairs], np.ndarray]) -> Method:
    """dpo's losses under other weights of the pairs ``[N]``."""

    def method(world: World, pairs: Pairs, seed: int) -> Tensor:
        law = torch.from_numpy(weights(world, pairs))
        return minimiser(pairs, of_margins(lambda margin: (law * LOSS.losses(margin)).sum() / law.sum()))

    return method


def flipped_labels(world: World, pairs: Pairs, seed: int) -> Tensor:
    """rDPO at a flip rate of .1."""
    loss = UnbiasedLoss(beta=1.0, flip_rate=0.1)
    return minimiser(pairs, of_margins(lambda margin: loss.losses(margin).mean()))


def moved_inputs(world: World, pairs: Pairs, seed: int) -> Tensor:
    """WDPO (arXiv 2502.01930, Algorithm 1), at a radius of .1 in units of x."""
    return minimiser(pairs, LogLinear(truth=torch.zeros(pairs.features.shape[1], dtype=torch.float64)).wdpo(0.1))


def with_mass(chosen: np.ndarray) -> np.ndarray:
    """Weights ``[N]`` that give the pairs in ``chosen [N]`` the total ``MASS``; even ones where that is all or none."""
    weights = weights_of_mass(chosen.astype(float), MASS)
    return np.ones(len(chosen)) if weights is None else weights


def overlooked_pairs(world: World, pairs: Pairs) -> np.ndarray:
    """The grouping ``overlooked`` on the policy's own features; even weights where its evidence says no."""
    prompt = np.arange(len(pairs.group))
    groups = Overlooked().find(PairData(prompt=prompt, features=pairs.features.numpy()))
    believable = weigh_evidence(groups, prompt, {}).believable
    return with_mass(groups.membership[:, 1] > 0.5) if believable else np.ones(len(prompt))


def early_mistakes(world: World, pairs: Pairs) -> np.ndarray:
    """JTT: the pairs that a few steps of gradient descent get wrong."""
    theta = torch.zeros(pairs.features.shape[1], dtype=torch.float64, requires_grad=True)
    for _ in range(EARLY):
        (slope,) = torch.autograd.grad(LOSS.losses(pairs.features @ theta).mean(), theta)
        theta = (theta - slope).detach().requires_grad_()
    return with_mass((pairs.features @ theta.detach()).numpy() < 0)


def oracle(world: World, pairs: Pairs, seed: int) -> Tensor:
    """As many pairs of people in even shares over those whom any target has, which were drawn for it."""
    wanted = np.array(list(world.targets.values())).max(0) > 0
    shares = tuple(wanted / wanted.sum())
    return reweighted(Nominal())(world, draw(world, shares, seed + 10**6), seed)


METHODS: dict[str, Method] = {
    "dpo": reweighted(Nominal()),
    "kldpo": reweighted(KLBall(temperature=0.5)),
    "wdpo": moved_inputs,
    "cvar": reweighted(CVaR(alpha=0.25)),
    "chi2": reweighted(ChiSquareBall(radius=0.1)),
    "drdpo": reweighted(KLBall(temperature=1.0, direction="optimistic")),
    "rdpo": flipped_labels,
    "group_robust": reweighted(GroupBall(), of_groups=True),
    "overlooked": weighted(overlooked_pairs),
    "jtt": weighted(early_mistakes),
    "oracle": oracle,
}


def measure(seeds: Iterable[int], progress: Callable[[str], None] = lambda name: None) -> pd.DataFrame:
    """One row a world, method and seed: ``nominal`` worth, that at the ``worst`` target, how much of it is ``beyond``
    dpo's theta at the method's length, and the worst of ``dpo`` and of the ``oracle``."""
    rows = []
    for world in worlds():
        progress(world.name)
        targets, training = np.array(list(world.targets.values())), np.array(world.training)
        for seed in seeds:
            pairs = draw(world, world.training, seed)
            thetas = torch.stack([method(world, pairs, seed) for method in METHODS.values()])
            as_long = thetas.norm(dim=1, keepdim=True) * thetas[0] / thetas[0].norm()
            values, control = worth(world, thetas), worth(world, as_long)
            worst, of_control = (values @ targets.T).min(1), (control @ targets.T).min(1)
            ends = dict(zip(METHODS, worst, strict=True))
            for name, nominal, value, other in zip(METHODS, values @ training, worst, of_control, strict=True):
                rows.append((world.name, name, seed, nominal, value, value - other, ends["dpo"], ends["oracle"]))
    return pd.DataFrame(rows, columns=["shift", "method", "seed", "nominal", "worst", "beyond", "dpo", "oracle"])
