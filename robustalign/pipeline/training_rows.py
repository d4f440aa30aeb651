"""The training rows of a method: pairs of the nominal population, with the columns that the method needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robustalign.config import Config
from robustalign.data.candidates import Candidates
from robustalign.data.pairs import PairColumns, TrainingRows, both_ways, training_pairs
from robustalign.errors import ConfigError
from robustalign.groups import PairGroups
from robustalign.pipeline.groups import GroupStage
from robustalign.pipeline.stages import Stages
from robustalign.shifts import Pairs
from robustalign.training.objective import Objective


@dataclass(frozen=True)
class Prepared:
    """``rows`` in training order; the ``groups`` of their pairs with the ``stage`` that found them; the ``objective``,
    which now knows what groups attain where it asks for that."""

    rows: TrainingRows
    objective: Objective
    stage: GroupStage
    groups: PairGroups


def prepare(stages: Stages, objective: Objective, candidates: Candidates) -> Prepared:
    """The pairs of the nominal population, or what the oracle makes of them.

    Raises:
        ConfigError: a population that is trained on has no pair, or the pairs have no such groups.
    """
    config, shift = stages.config, stages.shift
    target = (objective.target or shift.farthest()) if objective.oracle else None
    ratio = shift.importance(target) if target and not objective.own_pairs else None
    relabel = target if target and ratio is None else None
    pairs = training_pairs(shift, candidates, config.dataset.pairs, config.seed, relabel)
    apart = pairs.weight is not None and "soft_label" not in objective.needs  # every vote on its own side
    settle_steps(config, len(both_ways(pairs)[0]) if apart else len(pairs))
    stage = GroupStage(stages, pairs, candidates)
    groups = stage.groups()
    if objective.regret:
        compared = replace(objective.set, attainable=stage.attainable(groups))  # type: ignore[type-var]
        objective = replace(objective, set=compared)
    group_weights = None if objective.mass is None else groups.weight(objective.mass)
    mass = np.ones(len(pairs)) if group_weights is None else group_weights
    member = pair_groups(pairs, candidates, groups, config) if "group" in objective.needs else None
    if apart:
        pairs, origin = both_ways(pairs)
        mass, member = mass[origin], None if member is None else member[origin]
    optional = {
        "weight": pair_weights(pairs, ratio, mass),
        "group": member,
        "soft_label": soft_labels(pairs, config) if "soft_label" in objective.needs else None,
    }
    present = {name: column for name, column in optional.items() if column is not None}
    steps, size = config.trainer.steps, config.trainer.batch_size
    columns = PairColumns(present, objective.mass_from(steps), pair_weights(pairs, ratio, np.ones(len(pairs))))
    rows = TrainingRows(pairs, candidates, columns, steps=steps, batch_size=size, seed=config.seed)
    return Prepared(rows, objective, stage, groups)


def settle_steps(config: Config, pairs: int) -> None:
    """Write into the config how many steps ``trainer.epochs`` are, and after which of them ``evaluation.epochs`` end.

    Raises:
        ConfigError: the pairs do not fill a batch, or it is to be measured after the last step.
    """
    trainer, evaluation = config.trainer, config.evaluation
    if trainer.epochs is not None:
        trainer.max_steps = int(trainer.epochs * pairs / trainer.batch_size)
        if trainer.max_steps == 0:
            problem = f"{trainer.epochs:g} over {pairs} pairs fill no batch of trainer.batch_size={trainer.batch_size}"
            raise ConfigError("trainer.epochs", problem)
    after = {epoch: int(epoch * pairs / trainer.batch_size) for epoch in evaluation.epochs}
    evaluation.steps = sorted({*evaluation.steps, *after.values()})
    if evaluation.steps and evaluation.steps[-1] > trainer.steps:
        key = "evaluation.epochs" if evaluation.steps[-1] in after.values() else "evaluation.steps"
        raise ConfigError(key, f"ends at step {evaluation.steps[-1]}, training at {trainer.steps}")


def pair_groups(pairs: Pairs, candidates: Candidates, groups: PairGroups, config: Config) -> np.ndarray:
    """Memberships ``[N, K]`` in the groups of the stage; without one, ids ``[N]``: of the people who compared, or of
    the prompt's own group where scorers label."""
    if config.groups["method"] != "none":
        return groups.membership
    if pairs.weight is not None:
        return np.unique(pairs.annotator, return_inverse=True)[1]
    own = np.array(candidates.table["group"][:])
    return np.unique(own, return_inverse=True)[1][pairs.prompt]


def pair_weights(pairs: Pairs, ratio: np.ndarray | None, mass: np.ndarray) -> np.ndarray | None:
    """Weights ``[N]``: the groups' ``mass [N]``, times the votes over their mean where people compared, times the
    oracle's ``ratio [C]``; None where all are equal."""
    weight = mass if pairs.weight is None else mass * pairs.weight / pairs.weight.mean()
    if ratio is not None:
        return weight * ratio[pairs.annotator]
    return weight if np.ptp(weight) > 0 else None


def soft_labels(pairs: Pairs, config: Config) -> np.ndarray:
    """The share of votes ``[N]`` for chosen; of scorers Bradley-Terry's probability that it beats rejected, from the
    score gap of whoever labelled the pair, at ``dataset.pairs.temperature`` under every pair rule."""
    if pairs.soft_label is not None:
        return pairs.soft_label
    return 1.0 / (1.0 + np.exp(-pairs.gap / config.dataset.pairs.temperature))
