"""Certificates of trained policies: the worst loss within a radius of the held-out pairs, and the loss at targets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from robustalign.evaluation.controls import REFERENCE, TRAINED, Kind, read_control
from robustalign.evaluation.metrics import METRICS
from robustalign.report import statistics
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate
from robustalign.report.tables import text

KEYS = ["control", "set", "radius", "target"]
NUMBERS = ("certificate", "realised", "slack")
LOSS = METRICS["loss"]


def certificates(measures: Measures) -> pd.DataFrame:
    """Means over seeds, one row a point, control, set, radius and target ('' along the curve over the radius).

    Columns: ``label method control set radius target seeds pairs``, and with ``_low`` and ``_high`` each:
    ``certificate`` (nats), ``realised`` (the loss at the target, nats) and ``slack``, their difference, which is
    never negative: the price of not knowing the target's direction. Intervals of certificates along the curve add
    the variance over prompts to that over seeds; those at targets are over seeds alone. ``realised`` is resampled
    over seeds and prompts. No interval of a loss goes below 0. No rows for points of which a run has no
    ``results/certificates.csv``.
    """
    rows = [row for point in measures.setting.points for row in _rows(measures, point)]
    columns = ["label", "method", *KEYS, *(n + end for n in NUMBERS for end in ("", "_low", "_high")), "seeds", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def _rows(measures: Measures, point: Point) -> list[dict[str, object]]:
    files = [point.runs[seed].files / "results" / "certificates.csv" for seed in point.seeds]
    if not all(file.is_file() for file in files):
        return []
    every = pd.concat(map(pd.read_csv, files), ignore_index=True).fillna({"target": ""})
    losses = measures.values(Policy(point.label), LOSS)
    rows = []
    for key, block in every[every["split"] == measures.setting.split].groupby(KEYS, sort=False):
        fields = dict(zip(KEYS, key, strict=True))
        at_target = fields["target"] and read_control(fields["control"]) == TRAINED and losses is not None
        realised = losses.estimate(str(fields["target"])) if at_target and losses is not None else Estimate.missing()
        slack = _of(block["value"] - block["realised"]).within(0.0, math.inf) if at_target else Estimate.missing()
        row: dict[str, object] = {"label": point.label, "method": point.method, **fields}
        row |= _over_seeds_and_prompts(block).columns("certificate")
        row |= realised.columns("realised") | slack.columns("slack")
        rows.append(row | {"seeds": len(block), "pairs": int(block["n"].iloc[0])})
    return rows


def certified(table: pd.DataFrame, setting: Setting, ball: str = "kl") -> pd.DataFrame:
    """Each point's certificate at the radii of a ball, the controls below; as text."""
    curve = table[(table["set"] == ball) & (table["target"] == "")]
    policies: list[dict[str, str]] = []
    controls: list[dict[str, str]] = []
    for (label, control), block in curve.groupby(["label", "control"], sort=False):
        name = curve_name(label, control, setting)
        if name is None:
            continue
        row = {"point": name}
        for at in block.to_dict("records"):
            row[f"{at['radius']:g}"] = text(Estimate.of_columns(at, "certificate", at["seeds"], at["pairs"]))
        row["n"] = f"{block['seeds'].iloc[0]} x {block['pairs'].iloc[0]}"
        (policies if read_control(control) == TRAINED else controls).append(row)
    return pd.DataFrame([*policies, *controls])


def curve_name(label: str, control: str, setting: Setting) -> str | None:
    """What tables and pictures call a curve of certificates; None for one that they leave out.

    The reference is the same for all points and is taken from the first; margins made smaller are a control where they
    are dpo's, and are left out where no dpo was run.
    """
    which = read_control(control)
    if which == TRAINED:
        return label
    first = setting.baseline or setting.points[0]
    if label != first.label:
        return None
    if which == REFERENCE:
        return "reference (ln 2)"
    return f"{label}'s margins x {which.factor:g}" if which.kind is Kind.SHRUNK and setting.baseline else None


def _over_seeds_and_prompts(block: pd.DataFrame) -> Estimate:
    """The mean over seeds; the prompts are the same for all of them, so their variance does not average out."""
    over_seeds, arm_of_prompts = _of(block["value"]), block["high"] - block["value"]
    if arm_of_prompts.isna().any():
        return over_seeds.within(LOSS.low, LOSS.high)
    of_seeds = 0.0 if np.isnan(over_seeds.low) else over_seeds.value - over_seeds.low
    arm = float(np.sqrt(np.mean(arm_of_prompts**2) + of_seeds**2))
    value = over_seeds.value
    return Estimate(value, value - arm, value + arm, over_seeds.seeds, 0).within(LOSS.low, LOSS.high)


def _of(values: Sequence[float] | pd.Series) -> Estimate:
    return statistics.of_seeds(np.asarray(values, float))
