"""What a report says of people who chose: calibration, the worst group and the worst tenth of them, their agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from robustalign.evaluation.controls import TRAINED
from robustalign.evaluation.people import WORST_PEOPLE
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate
from robustalign.report.tables import text

FILE, BINS = "people.csv", "reliability.csv"  # in a run's results/
CAPTION = (
    "test values with 95 % intervals over seeds and prompts; the worst group's holds although it was picked (mean of "
    "the seeds' max-t intervals); calibration: expected error of sigmoid(beta h) against vote shares; the worst tenth "
    "of people was picked by one half of their votes and measured by the other"
)
Z = NormalDist().inv_cdf(0.975)


def people_table(setting: Setting) -> pd.DataFrame:
    """One row a point, as text; empty where no run measured people."""
    rows = [row for point in setting.points if (row := _row(point, setting.split))]
    return pd.DataFrame(rows)


def _row(point: Point, split: str) -> dict[str, str]:
    table = _read(point, FILE, split)
    if table.empty:
        return {}
    targets = pd.concat([run.targets for _, run in sorted(point.runs.items())])
    worst = targets[(targets["control"] == str(TRAINED)) & (targets["split"] == split) & (targets["target"] == "worst")]
    worst = worst[(worst["metric"] == "accuracy") & (worst["step"] == worst["step"].max())]
    row = {"point": point.label, "accuracy, worst group": text(picked(worst))}
    for name, target, metric in (
        (f"accuracy, {WORST_PEOPLE}", WORST_PEOPLE, "accuracy"),
        ("calibration error, nominal", "nominal", "calibration"),
        ("people agree, nominal", "nominal", "agreement"),
    ):
        row[name] = text(over_seeds(table[(table["target"] == target) & (table["metric"] == metric)]))
    return row


def over_seeds(rows: pd.DataFrame) -> Estimate:
    """The mean of the seeds' values; its variance is that over prompts, which seeds share, and that over seeds."""
    if rows.empty:
        return Estimate.missing()
    values = rows["value"].to_numpy()
    within = float(((rows["high"] - rows["low"]) / (2 * Z)).mean())
    between = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    half, mean = Z * math.hypot(within, between), float(values.mean())
    return Estimate(mean, mean - half, mean + half, len(values), int(rows["n"].min()))


def picked(rows: pd.DataFrame) -> Estimate:
    """The mean of the seeds' worst values between the means of their ends."""
    if rows.empty:
        return Estimate.missing()
    value, low, high = (float(rows[name].mean()) for name in ("value", "low", "high"))
    return Estimate(value, low, high, len(rows), int(rows["n"].min()))


def reliability(point: Point, split: str) -> pd.DataFrame:
    """A point's bins of confidence in the nominal population, means over seeds: ``confidence agreement low high``."""
    bins = _read(point, BINS, split)
    if bins.empty:
        return bins
    nominal = bins[(bins["target"] == "nominal") & (bins["control"] == str(TRAINED))]
    return nominal.groupby("bin")[["confidence", "agreement", "low", "high", "share"]].mean().reset_index()


def _read(point: Point, name: str, split: str) -> pd.DataFrame:
    frame = point.results(name)
    return frame[frame["split"] == split] if len(frame) else frame


def paragraph(setting: Setting, metrics: Sequence[str]) -> str:
    """How well people agree, and why there is no reward, as markdown; '' where no run measured people."""
    tables = [table for point in setting.points if len(table := _read(point, FILE, setting.split))]
    if not tables:
        return ""
    first = tables[0]
    ceilings = first[(first["metric"] == "agreement") & first["value"].notna()].drop_duplicates("target")
    lines = ["", "**People**", ""]
    if len(ceilings):
        in_words = ", ".join(f"{row.target} {text(_of(row))}" for row in ceilings.itertuples())
        lines.append(
            f"- Two people agree on the same item in: {in_words}. Accuracies are to be read beside it; it is no bound."
        )
    else:
        lines.append("- No item was judged twice: how well people agree with one another is unknown.")
    if "reward" not in metrics:
        why = "nobody can say what people would have chosen of a new reply"
        lines.append(
            f"- There is no reward of generated replies: {why}, and no reward model was named (shift.objectives)."
        )
    return "\n".join([*lines, ""]) + "\n"


def _of(row: Any) -> Estimate:
    finite = np.isfinite(row.low)
    return Estimate(row.value, row.low if finite else math.nan, row.high if finite else math.nan, 1, int(row.n))
