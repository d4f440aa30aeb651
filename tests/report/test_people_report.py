"""What a report says of people, from files as runs write them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from robustalign.report import people
from robustalign.report.pictures.reliability import reliability_diagram
from robustalign.report.settings import Point
from robustalign.report.style import Look, drawing


def run(folder, seed: int, accuracy: float, told: bool = True) -> SimpleNamespace:
    results = folder / f"{seed}" / "results"
    results.mkdir(parents=True)
    if told:
        rows = [
            ("people", "test", 5, "nominal", "agreement", 0.72, 0.70, 0.74, 300),
            ("people", "test", 5, "UK", "agreement", np.nan, np.nan, np.nan, 300),
            ("policy", "test", 5, "nominal", "calibration", 0.04 + 0.02 * seed, 0.02, 0.06, 300),
            ("policy", "test", 5, "worst tenth of people", "accuracy", 0.55, 0.5, 0.6, 40),
        ]
        names = ["control", "split", "step", "target", "metric", "value", "low", "high", "n"]
        pd.DataFrame(rows, columns=names).to_csv(results / "people.csv", index=False)
        bins = [("nominal", b, 0.5, 0.55 + b / 20, 0.5 + b / 20, 0.4, 0.9, "policy", "test", 5) for b in (0, 3)]
        names = ["target", "bin", "share", "confidence", "agreement", "low", "high", "control", "split", "step"]
        pd.DataFrame(bins, columns=names).to_csv(results / "reliability.csv", index=False)
    worst = {"control": ["policy"], "split": ["test"], "step": [5], "target": ["worst"], "metric": ["accuracy"]}
    targets = pd.DataFrame(worst | {"value": [accuracy], "low": [accuracy - 0.1], "high": [accuracy + 0.1], "n": [300]})
    return SimpleNamespace(files=folder / f"{seed}", targets=targets)


def setting(folder, told: bool = True) -> SimpleNamespace:
    runs = {seed: run(folder, seed, 0.6 + 0.02 * seed, told) for seed in (0, 1)}
    return SimpleNamespace(split="test", points=[Point(label="dpo", config={"method": {"name": "dpo"}}, runs=runs)])


def test_the_table_holds_the_worst_group_the_worst_people_and_their_agreement(tmp_path) -> None:
    (row,) = people.people_table(setting(tmp_path)).to_dict("records")
    assert row["accuracy, worst group"] == "0.610 [0.510, 0.710]"
    assert row["accuracy, worst tenth of people"] == "0.550 [0.500, 0.600]"
    assert row["people agree, nominal"] == "0.720 [0.700, 0.740]"
    assert row["calibration error, nominal"].startswith("0.050 [")


def test_the_interval_over_seeds_adds_both_variances() -> None:
    rows = pd.DataFrame({"value": [0.4, 0.6], "low": [0.4, 0.6], "high": [0.4, 0.6], "n": [10, 9]})
    found = people.over_seeds(rows)
    assert (found.value, found.seeds, found.prompts) == (pytest.approx(0.5), 2, 9)
    assert found.high - 0.5 == pytest.approx(1.959964 * 0.1 * math.sqrt(2) / math.sqrt(2))
    wide = people.over_seeds(rows.assign(low=rows["value"] - 0.3, high=rows["value"] + 0.3))
    assert wide.high - 0.5 == pytest.approx(math.hypot(0.3, 1.959964 * 0.1))


def test_the_words_say_how_people_agree_and_why_there_is_no_reward(tmp_path) -> None:
    said = people.paragraph(setting(tmp_path), ["accuracy", "loss"])
    assert "Two people agree on the same item in: nominal 0.720 [0.700, 0.740]." in said and "UK" not in said
    assert "no reward of generated replies" in said
    assert "no reward of generated replies" not in people.paragraph(setting(tmp_path / "b"), ["reward"])


def test_runs_without_people_say_nothing(tmp_path) -> None:
    bare = setting(tmp_path, told=False)
    assert people.people_table(bare).empty and people.paragraph(bare, []) == ""
    assert reliability_diagram(bare, Look(bare)) is None


def test_the_diagram_draws_the_bins_of_every_point(tmp_path) -> None:
    shown = setting(tmp_path)
    with drawing():
        figure = reliability_diagram(shown, Look(shown))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["calibrated", "dpo"]
    drawn = figure.axes[0].lines[1]
    assert drawn.get_xdata() == pytest.approx([0.55, 0.7]) and drawn.get_ydata() == pytest.approx([0.5, 0.65])
