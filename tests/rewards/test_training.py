"""A reward model learns what labels say, and its held-out figures are what they are called."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from robustalign.rewards import build_scorer
from robustalign.rewards.held_out import against, areas, calibration_error, held_out, resamples, roc_auc
from robustalign.rewards.training import Examples, Recipe, joined_texts, train

GOOD, BAD, REST = ("great lovely kind", "awful rude cold", "the a this that is was it of tea rain book day")


def texts(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Words among fillers; labels say whether a good and whether a bad one occurs."""
    draw, made, labels = random.Random(seed), [], []
    for _ in range(count):
        words, label = draw.choices(REST.split(), k=6), [draw.random() < 0.5, draw.random() < 0.3]
        for wanted, pool in zip(label, (GOOD, BAD), strict=True):
            if wanted:
                words.insert(draw.randrange(len(words)), draw.choice(pool.split()))
        made.append(" ".join(words))
        labels.append(label)
    return made, np.array(labels, dtype=float)


SMALL = {"labels": ("good", "bad"), "epochs": 4, "vocabulary": 200, "batch_size": 32, "learning_rate": 3e-3}


def test_several_labels_at_once(tmp_path) -> None:
    training, validation, test = (Examples(*texts(n, seed)) for n, seed in ((600, 0), (100, 1), (200, 2)))
    recipe = Recipe(kind="multi_label", join=2, **SMALL)
    trained = train(recipe, training, validation)
    figures = held_out(trained, test, recipe)
    assert figures["all"]["auc"].value > 0.95 and figures["good"]["accuracy"].value > 0.9
    low, high = figures["good"]["accuracy"][1:]
    assert low <= figures["good"]["accuracy"].value <= high and figures["all"]["exact"] <= figures["all"]["accuracy"]
    coin = np.random.default_rng(3).random(len(test))
    compared = against(trained, test, recipe, {"bad": coin})["bad"]
    assert compared["gain"].value == pytest.approx(compared["auc"].value - compared["other"].value)
    assert compared["gain"].low > 0.2
    losses = [row["validation_loss"] for row in trained.curve]
    assert trained.epoch == 1 + int(np.argmin(losses)), "the best epoch by validation is kept"
    trained.save(tmp_path)
    spec = {"scorer": "classifier", "path": str(tmp_path), "label": "bad", "max_length": 64}
    scored = build_scorer("x", spec, Path()).score([""] * 2, ["it was awful rude", "it was great"])
    assert scored[0] > 0.5 > scored[1]


def test_one_of_several_labels() -> None:
    parts = []
    for n, seed in ((400, 0), (80, 1), (120, 2)):
        made, labels = texts(n, seed)
        keep = labels.sum(1) == 1
        parts.append(Examples([t for t, k in zip(made, keep, strict=True) if k], labels[keep].argmax(1)))
    recipe = Recipe(kind="single_label", **SMALL)
    figures = held_out(train(recipe, *parts[:2]), parts[2], recipe)
    assert figures["all"]["accuracy"].value > 0.9


def test_which_of_two_is_better() -> None:
    parts = []
    for n, seed in ((400, 0), (60, 1), (100, 2)):
        draw = random.Random(seed)
        fillers = [" ".join(draw.choices(REST.split(), k=4)) for _ in range(n)]
        better = [f"{f} {draw.choice(GOOD.split())}" for f in fillers]
        worse = [f"{draw.choice(BAD.split())} {f}" for f in fillers]
        parts.append(Examples(better, others=worse))
    recipe = Recipe(kind="pairs", **SMALL)
    figures = held_out(train(recipe, *parts[:2]), parts[2], recipe)
    assert figures["all"]["accuracy"].value > 0.95


def test_joined_texts_have_the_union_of_their_labels() -> None:
    words, labels = [f"word{i}" for i in range(8)], np.eye(8)
    made = joined_texts(Examples(words, labels), 3, np.random.default_rng(0))
    assert made.targets is not None and {len(text.split()) for text in made.texts} == {1, 2, 3}
    for text, target in zip(made.texts, made.targets, strict=True):
        assert {f"word{i}" for i in np.flatnonzero(target)} == set(text.split())


def test_area_and_calibration_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    scores, truth = np.round(rng.random(60), 1), (rng.random(60) < 0.4).astype(float)
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[truth == 1] for n in scores[truth == 0]]
    assert roc_auc(scores, truth) == pytest.approx(np.mean(pairs))
    assert np.isnan(roc_auc(scores, np.ones(60)))
    weights = resamples(60, 5)
    for drawn, found in zip(
        weights, areas(scores, truth, weights), strict=True
    ):  # as if every text stood there so often
        rows = np.repeat(np.arange(60), drawn.astype(int))
        assert found == pytest.approx(roc_auc(scores[rows], truth[rows]))
    assert calibration_error(np.array([0.25, 0.25, 0.95, 0.95]), np.array([0, 1, 1, 1.0])) == pytest.approx(0.15)


def test_what_cannot_be_is_refused() -> None:
    examples = Examples(*texts(40, 0))
    with pytest.raises(ValueError, match="kind: 'both' is none of"):
        train(Recipe(kind="both", labels=("a", "b")), examples, examples)
    with pytest.raises(ValueError, match="learning_rate: the loss is"):
        train(Recipe(kind="multi_label", **(SMALL | {"learning_rate": 1e20, "epochs": 2})), examples, examples)
