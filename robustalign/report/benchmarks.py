"""Public benchmarks in a report: each point's numbers, the reference's, and below them what others have published."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from robustalign.evaluation.controls import REFERENCE, TRAINED
from robustalign.report.settings import Setting

FILE = "benchmarks.csv"  # in a run's results/
PUBLISHED = Path(__file__).with_name("published.csv")  # source, table, model, method, task, value
CAPTION = (
    "benchmarks of the LM Evaluation Harness: mean over seeds ± its standard error, of which the harness's own, over "
    "questions, is a part that seeds do not lower; rows marked 'published' are other people's, of other models and data"
)


def benchmark_table(setting: Setting) -> pd.DataFrame:
    """One row a point, one of the reference, and the published ones of the same tasks; empty without benchmarks."""
    of_points = {point.label: frame for point in setting.points if len(frame := point.results(FILE))}
    if not of_points:
        return pd.DataFrame()
    rows = [{"point": label} | _cells(frame, str(TRAINED)) for label, frame in of_points.items()]
    first = next(iter(of_points.values()))
    rows.append({"point": "reference"} | _cells(first, str(REFERENCE)))
    return pd.DataFrame([*rows, *published(set(first["task"]))]).fillna("")


def published(tasks: set[str]) -> list[dict[str, str]]:
    """Rows of what others have published on some of the tasks, labelled as theirs."""
    table = pd.read_csv(PUBLISHED, dtype=str)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for row in table[table["task"].isin(tasks)].itertuples():
        label = f"published: {row.method}, {row.model} ({row.source}, {row.table})"
        rows.setdefault((row.source, row.table, row.model, row.method), {"point": label})[str(row.task)] = str(
            row.value
        )
    return list(rows.values())


def mean_and_error(values: np.ndarray, errors: np.ndarray) -> tuple[float, float]:
    """The mean over seeds ``[S]`` and its standard error: over seeds, and over the questions that all seeds share."""
    between = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    within = float(np.nanmean(errors)) if np.isfinite(errors).any() else 0.0
    return float(values.mean()), math.hypot(between, within)


def _cells(frame: pd.DataFrame, control: str) -> dict[str, str]:
    cells = {}
    for (task, metric), rows in frame[frame["control"] == control].groupby(["task", "metric"], sort=False):
        value, error = mean_and_error(rows["value"].to_numpy(float), rows["stderr"].to_numpy(float))
        many = frame[frame["task"] == task]["metric"].nunique() > 1
        cells[f"{task}, {metric}" if many else str(task)] = f"{value:.3f} ± {error:.3f}"
    return cells
