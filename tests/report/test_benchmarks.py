"""Benchmarks in a report: means over seeds, the reference, and what others have published, labelled as theirs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from robustalign.report.benchmarks import PUBLISHED, benchmark_table, mean_and_error, published
from robustalign.report.settings import Point


def run_with(folder: Path, value: float, task: str = "leaderboard_bbh") -> SimpleNamespace:
    (folder / "results").mkdir(parents=True)
    rows = [
        {"control": control, "task": task, "metric": "acc_norm", "value": v, "stderr": 0.03, "n": 100}
        for control, v in (("policy", value), ("reference", 0.3))
    ]
    pd.DataFrame(rows).to_csv(folder / "results" / "benchmarks.csv", index=False)
    return SimpleNamespace(files=folder)


def with_runs(runs: dict[int, SimpleNamespace]) -> SimpleNamespace:
    """A setting of one point, dpo, with these runs."""
    return SimpleNamespace(points=[Point(label="dpo", config={}, runs=runs)])


def test_seeds_are_averaged_and_published_numbers_stand_below(tmp_path: Path) -> None:
    runs = {seed: run_with(tmp_path / str(seed), 0.4 + seed / 10) for seed in (0, 1)}
    table = benchmark_table(with_runs(runs))
    assert table["point"].tolist()[:2] == ["dpo", "reference"]
    error = np.hypot(0.1 / np.sqrt(2) / np.sqrt(2), 0.03)
    assert table["leaderboard_bbh"].tolist()[:2] == [f"0.450 ± {error:.3f}", "0.300 ± 0.030"]
    theirs = table["point"][2:]
    assert len(theirs) == 13 and all(
        label.startswith("published: ") and "arXiv 2502.01930, Table 1" in label for label in theirs
    )


def test_without_benchmarks_there_is_no_table_and_ones_own_tasks_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert benchmark_table(with_runs({0: SimpleNamespace(files=tmp_path)})).empty
    own = {0: run_with(tmp_path / "own", 0.5, "mine")}
    assert benchmark_table(with_runs(own))["point"].tolist() == ["dpo", "reference"]


def test_one_seed_has_the_harness_error_and_none_is_not_invented() -> None:
    assert mean_and_error(np.array([0.5]), np.array([0.02])) == (0.5, 0.02)
    assert mean_and_error(np.array([0.4, 0.6]), np.array([np.nan, np.nan])) == (pytest.approx(0.5), pytest.approx(0.1))


def test_sub_tasks_average_to_the_published_groups() -> None:
    """Tables 1 and 3 agree to rounding: BBH is the mean of its 24 sub-tasks."""
    table = pd.read_csv(PUBLISHED)
    one = table[table["model"] == "Llama 3.2 1B Instruct"]
    for method in ("KLDPO tau .1", "WDPO rho .01", "WDPO rho .005"):
        parts = one[
            (one["table"] == "Table 3") & (one["method"] == method) & one["task"].str.startswith("leaderboard_bbh_")
        ]
        whole = one[(one["table"] == "Table 1") & (one["method"] == method) & (one["task"] == "leaderboard_bbh")]
        assert len(parts) == 24 and abs(parts["value"].mean() - float(whole["value"].iloc[0])) < 0.0101, method
    assert published({"nothing"}) == []
