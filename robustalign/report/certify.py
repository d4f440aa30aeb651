"""Certificates of trained policies: the worst loss within a radius of the held-out pairs, and the loss at targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robustalign.report import statistics
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point
from robustalign.report.statistics import Estimate
from robustalign.report.tables import text

KEYS = ["control", "set", "radius", "target"]
NUMBERS = ("certificate", "realised", "slack")


def certificates(measures: Measures, split: str = "test") -> pd.DataFrame:
    """Means over seeds, one row a point, control, set, radius and target ('' along the curve over the radius).

    Columns: ``label method control set radius target seeds pairs``, and with ``_low`` and ``_high`` each:
    ``certificate`` (nats), ``realised`` (the loss at the target, nats) and ``slack``, their difference, which is
    never negative: the price of not knowing the target's direction. Intervals of certificates along the curve add
    the variance over prompts to that over seeds; those at targets are over seeds alone. ``realised`` is resampled
    over seeds and prompts. No rows for points of which a run has no ``results/certificates.csv``.
    """
    rows = [row for point in measures.setting.points for row in _rows(measures, point, split)]
    columns = ["label", "method", *KEYS, *(n + end for n in NUMBERS for end in ("", "_low", "_high")), "seeds", "pairs"]
    return pd.DataFrame(rows, columns=columns)


def _rows(measures: Measures, point: Point, split: str) -> list[dict[str, object]]:
    files = [point.runs[seed].files / "results" / "certificates.csv" for seed in point.seeds]
    if not all(file.is_file() for file in files):
        return []
    found = pd.concat(map(pd.read_csv, files), ignore_index=True).fillna({"target": ""})
    losses = measures.values(Policy(point.label), "loss", split)
    rows = []
    for key, block in found[found["split"] == split].groupby(KEYS, sort=False):
        named = dict(zip(KEYS, key, strict=True))
        known = named["target"] and named["control"] == "policy" and losses is not None
        realised = losses.estimate(str(named["target"])) if known and losses is not None else Estimate.missing()
        row: dict[str, object] = {"label": point.label, "method": point.method, **named}
        row |= _columns("certificate", _over_seeds_and_prompts(block))
        row |= _columns("realised", realised)
        row |= _columns("slack", _of(block["value"] - block["realised"]) if known else Estimate.missing())
        rows.append(row | {"seeds": len(block), "pairs": int(block["n"].iloc[0])})
    return rows


def certified(table: pd.DataFrame, baseline: Point | None, ball: str = "kl") -> pd.DataFrame:
    """Each point's certificate at the radii of a ball, the controls below; as text."""
    curve = table[(table["set"] == ball) & (table["target"] == "")]
    rows: dict[str, dict[str, str]] = {}
    for found in curve.to_dict("records"):
        name = _name(found, baseline)
        if name is None:
            continue
        mean, low, high = (found[f"certificate{end}"] for end in ("", "_low", "_high"))
        value = Estimate(mean, low, high, found["seeds"], found["pairs"])
        row = rows.setdefault(name, {"point": name})
        row[f"{found['radius']:g}"] = text(value)
        row["n"] = f"{value.seeds} x {value.prompts}"
    ordered = sorted(rows.values(), key=lambda row: row["point"] not in set(table["label"]))
    return pd.DataFrame([{**{k: v for k, v in row.items() if k != "n"}, "n": row["n"]} for row in ordered])


def _name(row: Mapping[str, Any], baseline: Point | None) -> str | None:
    """What a row of the table of certificates is about; None for controls of other points than dpo."""
    if row["control"] == "policy":
        return str(row["label"])
    if baseline is None or row["label"] != baseline.label:
        return None
    return "reference" if row["control"] == "reference" else f"{baseline.label}'s margins x {row['control'][7:]}"


def _over_seeds_and_prompts(block: pd.DataFrame) -> Estimate:
    """The mean over seeds; the prompts are the same for all of them, so their variance does not average out."""
    found, half = _of(block["value"]), (block["high"] - block["low"]) / 2
    if half.isna().any():
        return found
    arm = float(np.sqrt(np.mean(half**2) + (0.0 if np.isnan(found.low) else found.value - found.low) ** 2))
    return Estimate(found.value, found.value - arm, found.value + arm, found.seeds, found.prompts)


def _of(values: Sequence[float] | pd.Series) -> Estimate:
    return statistics.of_seeds(np.asarray(values, float))


def _columns(name: str, e: Estimate) -> dict[str, object]:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
