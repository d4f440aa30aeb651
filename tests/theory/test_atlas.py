"""The atlas: people, policies and worths whose values are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from robustalign.report.atlas import atlas_cells, matrix, with_predictions
from robustalign.theory.atlas import DIMENSION, METHODS, World, axis, draw, in_block, measure, with_mass, worlds, worth


def world(name: str) -> World:
    return next(one for one in worlds() if one.name == name)


def test_worth_is_nothing_at_the_reference_and_all_of_it_for_ones_own_taste() -> None:
    two = world("minority of 10 %")
    far = 1e6 * torch.from_numpy(np.stack([two.people[0].taste, -two.people[0].taste, np.zeros(DIMENSION)]))
    values = worth(two, far)
    np.testing.assert_allclose(values[:, 0], [1, -1, 0], atol=1e-4)
    np.testing.assert_allclose(values[:, 1], 0, atol=0.03, err_msg="an orthogonal taste gains nothing")


def test_labels_are_bradley_terrys_at_the_groups_temperature_and_flips() -> None:
    for name in ("none", "30 % of labels flipped", "undecided annotators"):
        one = world(name)
        people, pairs = one.people[0], draw(World(name, one.people, (1.0,), one.targets, pairs=40_000), (1.0,), 3)
        margin = pairs.features.numpy() @ people.taste
        for low, high in ((0.0, 0.5), (1.0, 1.5), (2.5, 4.0)):
            inside = (np.abs(margin) >= low) & (np.abs(margin) < high)
            sure = 1 / (1 + np.exp(-np.abs(margin[inside]) / people.temperature))
            expected = (1 - people.flipped) * sure + people.flipped * (1 - sure)
            error = 4 * np.sqrt(0.25 / inside.sum())
            assert np.mean(margin[inside] > 0) == pytest.approx(expected.mean(), abs=error), (name, low)


def test_named_people_have_features_of_their_own() -> None:
    named = world("minority of 10 % that prompts name")
    first, second = (in_block(named, k, torch.ones(2, DIMENSION)) for k in (0, 1))
    assert first.shape == (2, 2 * DIMENSION) and float((first * second).abs().sum()) == 0
    assert in_block(world("drift"), 2, torch.ones(DIMENSION)).shape == (DIMENSION,)


def test_dpo_finds_the_taste_of_many_pairs() -> None:
    one = World("many", world("none").people, (1.0,), {"same": (1.0,)}, pairs=20_000)
    theta = METHODS["dpo"](one, draw(one, (1.0,), 0), 0).numpy()
    assert theta @ axis(1) / np.linalg.norm(theta) / np.linalg.norm(axis(1)) > 0.99


def test_found_pairs_have_their_mass() -> None:
    found = np.arange(10) < 2
    weights = with_mass(found)
    assert weights[found].sum() / weights.sum() == pytest.approx(0.3) and weights.mean() == pytest.approx(1)
    assert (with_mass(found & False) == 1).all()


def test_dpo_beside_itself_gains_nothing_and_a_scaled_dpo_neither() -> None:
    table = measure(range(2), progress=lambda name: None)
    assert table.groupby("method")["beyond"].apply(lambda v: np.abs(v).max())["dpo"] < 1e-12
    shorter = table[(table["method"] == "wdpo") & (table["shift"] == "none")]
    assert np.abs(shorter["beyond"]).max() < 0.02, "in this class wdpo is nearly dpo, shrunk"
    assert len(table) == 2 * len(METHODS) * len(worlds())
    cells = atlas_cells(table)
    assert len(cells) == len(worlds()) * (len(METHODS) - 2) and set(cells["sign"]) <= {-1, 0, 1}
    grid = matrix(cells)
    assert grid["shift"].tolist() == [one.name for one in worlds()]
    guess = cells[["shift", "method"]].assign(sign=0, reason="none")
    assert with_predictions(cells, guess)["right"].tolist() == (cells["sign"] == 0).tolist()
    with pytest.raises(ValueError, match=r"predictions: none for kldpo under 'none'"):
        with_predictions(cells, guess.iloc[1:])


def test_signs_are_corrected_for_all_cells() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for shift in range(20):
        for seed in range(10):
            values = {"dpo": 0.0, "oracle": 1.0, "strong": 1 + 0.1 * rng.normal(), "null": 0.1 * rng.normal()}
            rows += [(f"s{shift}", m, seed, v, v, v, 0.0, 1.0) for m, v in values.items()]
    table = pd.DataFrame(rows, columns=["shift", "method", "seed", "nominal", "worst", "beyond", "dpo", "oracle"])
    cells = atlas_cells(table).set_index("method")
    assert set(cells.loc["strong", "sign"]) == {1} and set(cells.loc["null", "sign"]) == {0}
    assert cells.loc["strong", "share"].mean() == pytest.approx(1, abs=0.05)
