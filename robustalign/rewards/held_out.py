"""What a reward model is worth on labelled texts that it has not seen, with intervals, alone or against another scorer.

Intervals are 95 % percentiles of a bootstrap over texts (Efron 1979); two scorers are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from robustalign.rewards.training import PAIRS, SINGLE, Examples, Recipe, Trained, encoder

DRAWS, CONFIDENCE = 1000, 0.95
WHOLE = "all"  # the row over all labels


class Figure(NamedTuple):
    """A measured value and its interval."""

    value: float
    low: float = float("nan")
    high: float = float("nan")


Figures = dict[str, dict[str, Figure]]
"""By label, and ``all``: figures by name."""


def held_out(trained: Trained, examples: Examples, recipe: Recipe, draws: int = DRAWS) -> Figures:
    """Per label: ``accuracy``, ``auc``, ``calibration`` error of probabilities in ten equal bins, ``positives`` share.

    ``all``: means over labels, of several labels at once also ``exact``, the share of texts whose labels are all right.
    For pairs: ``accuracy`` (ties half) and ``calibration`` of sigmoid(score gap).
    """
    weights = resamples(len(examples), draws)
    probability, truth, accuracy = _judged(trained, examples, recipe)
    if recipe.kind == PAIRS:
        error = Figure(calibration_error(probability[:, 0], truth[:, 0]))
        return {WHOLE: {"accuracy": _mean(accuracy, weights), "calibration": error}}
    table: Figures = {}
    for i, label in enumerate(recipe.labels):
        right = (probability[:, i] > 0.5) == (truth[:, i] > 0.5)
        table[label] = {
            "accuracy": _mean(right.astype(float), weights),
            "auc": area(probability[:, i], truth[:, i], weights),
            "calibration": Figure(calibration_error(probability[:, i], truth[:, i])),
            "positives": Figure(float(truth[:, i].mean())),
        }
    means = {key: _average([row[key] for row in table.values()]) for key in ("auc", "calibration")}
    whole = {"accuracy": _mean(accuracy, weights), **means}
    if recipe.kind != SINGLE:
        whole["exact"] = _mean(((probability > 0.5) == (truth > 0.5)).all(1).astype(float), weights)
    return {WHOLE: whole} | table


def against(
    trained: Trained, examples: Examples, recipe: Recipe, others: Mapping[str, np.ndarray], draws: int = DRAWS
) -> Figures:
    """Areas of ours and of other scores ``{label: [N]}`` on the same texts and labels: ``auc``, ``other``, ``gain``."""
    assert examples.targets is not None
    weights, logits = resamples(len(examples), draws), logits_of(trained, examples.texts, recipe.max_length)
    table: Figures = {}
    for label, scores in others.items():
        column = list(recipe.labels).index(label)
        truth = np.asarray(examples.targets)[:, column]
        of_reward, of_other = (areas(s, truth, weights) for s in (logits[:, column], scores))
        gain = roc_auc(logits[:, column], truth) - roc_auc(scores, truth)
        table[label] = {
            "auc": _interval(roc_auc(logits[:, column], truth), of_reward),
            "other": _interval(roc_auc(scores, truth), of_other),
            "gain": _interval(gain, of_reward - of_other),
        }
    return table


def _judged(trained: Trained, examples: Examples, recipe: Recipe) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities ``[N, L]``, what is true ``[N, L]``, and how right each text is ``[N]``."""
    logits = logits_of(trained, examples.texts, recipe.max_length)
    if recipe.kind == PAIRS:
        gap = logits - logits_of(trained, examples.others, recipe.max_length)
        return 1 / (1 + np.exp(-gap)), np.ones_like(gap), (1 + np.sign(gap[:, 0])) / 2
    assert examples.targets is not None
    if recipe.kind == SINGLE:
        shares = np.exp(logits - logits.max(1, keepdims=True))
        truth = np.eye(logits.shape[1])[examples.targets]
        return shares / shares.sum(1, keepdims=True), truth, (logits.argmax(1) == examples.targets).astype(float)
    truth = np.asarray(examples.targets, dtype=float)
    return 1 / (1 + np.exp(-logits)), truth, ((logits > 0) == (truth > 0.5)).mean(1)


@torch.no_grad()
def logits_of(trained: Trained, texts, max_length: int, batch_size: int = 256) -> np.ndarray:
    """Logits ``[N, L]``."""
    encode = encoder(trained.tokenizer, max_length)
    parts = [trained.model(**encode(texts[i : i + batch_size])).logits for i in range(0, len(texts), batch_size)]
    return torch.cat(parts).double().numpy()


def resamples(texts: int, draws: int) -> np.ndarray:
    """How often each text is drawn, ``[draws, texts]``: the same for everything that is measured on them."""
    return np.random.default_rng(0).multinomial(texts, np.full(texts, 1 / texts), size=draws).astype(np.float64)


def _interval(value: float, draws: np.ndarray) -> Figure:
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return Figure(value)
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(value, float(low), float(high))


def _mean(values: np.ndarray, weights: np.ndarray) -> Figure:
    return _interval(float(values.mean()), weights @ values / len(values))


def _average(figures: list[Figure]) -> Figure:
    return Figure(float(np.mean([figure.value for figure in figures])))


def area(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Figure:
    """``roc_auc`` with its interval."""
    return _interval(roc_auc(scores, truth), areas(scores, truth, weights))


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half; NaN without both."""
    return float(areas(scores, truth, np.ones((1, len(scores))))[0])


def areas(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The areas ``[draws]`` under the curve where texts count ``weights [draws, N]`` times; NaN without both kinds."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of runs of equal scores
    sorted_weights, positive = weights[:, order], truth[order] > 0.5
    up = np.add.reduceat(sorted_weights * positive, starts, axis=1)
    down = np.add.reduceat(sorted_weights * ~positive, starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (up * below).sum(1) / (up.sum(1) * down.sum(1))


def calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: mean |share of positives - mean probability| over equal bins, by their size."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    parts = [(place == b) for b in range(bins)]
    return float(sum(abs(truth[p].mean() - probability[p].mean()) * p.mean() for p in parts if p.any()))
