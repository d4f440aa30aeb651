"""The atlas as a table: methods under shifts, each cell beside the controls and beside what was predicted of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from robustalign.evaluation.metrics import METRICS
from robustalign.report.compare import Comparison
from robustalign.report.measures import Measures
from robustalign.report.settings import Setting
from robustalign.report.statistics import Estimate, holm, of_seeds

LEVEL = 0.05
LEAST_GAP = 0.02  # a smaller gap from dpo to the oracle has no shares


def atlas_cells(table: pd.DataFrame) -> pd.DataFrame:
    """One row a shift and method, of :func:`robustalign.theory.atlas.measure`'s rows.

    Means over seeds with 95 % intervals of the ``gain`` over dpo at the worst target, of what of it is ``beyond`` a
    dpo at the same distance from the reference, and of the ``nominal`` difference; the ``share`` of the oracle's gap;
    ``p_holm`` and ``sign`` of beyond after Holm's correction for all cells.
    """
    cells = []
    for (shift, method), part in table.groupby(["shift", "method"], sort=False):
        if method in ("dpo", "oracle"):
            continue
        dpo = table[(table["shift"] == shift) & (table["method"] == "dpo")]
        gain = of_seeds(part["worst"].to_numpy() - part["dpo"].to_numpy())
        beyond = of_seeds(part["beyond"].to_numpy())
        nominal = of_seeds(part["nominal"].to_numpy() - dpo["nominal"].to_numpy())
        gap = float((part["oracle"] - part["dpo"]).mean())
        share = gain.value / gap if gap > LEAST_GAP else math.nan
        columns = gain.columns("gain") | beyond.columns("beyond") | nominal.columns("nominal")
        cells.append({"shift": shift, "method": method, "seeds": len(part), **columns, "share": share, "p": beyond.p})
    frame = pd.DataFrame(cells)
    frame["p_holm"] = holm(frame["p"].tolist())
    frame["sign"] = np.where(frame["p_holm"] < LEVEL, np.sign(frame["beyond"]), 0).astype(int)
    return frame


def experiment_cells(settings: Iterable[Setting], draws: int = 2000) -> pd.DataFrame:
    """The same of an experiment's runs: one row a shift and method under test, in reward.

    ``beyond`` is the difference at the worst target to the best of dpo's smaller steps at no more KL. ``sign`` is 1
    where a method is beyond dpo and every control, -1 where it is below dpo, after Holm's correction for all cells.

    Raises:
        ValueError: there is nothing to compare.
    """
    cells, p_below = [], []
    for setting in settings:
        if setting.baseline is None:
            continue
        comparison = Comparison(Measures(setting, draws))
        points = Counter(point.method for point in setting.robust)
        for point in setting.robust:
            claim = comparison.claim(point, METRICS["reward"])
            unknown = Estimate.missing()
            worst, beyond, nominal = (getattr(claim, name) or unknown for name in ("worst", "matched_kl", "nominal"))
            columns = worst.columns("gain") | beyond.columns("beyond") | nominal.columns("nominal")
            share = math.nan if claim.gap_closed is None else claim.gap_closed.value
            about = {"shift": setting.config["shift"]["name"], "seeds": len(point.seeds)}
            about["method"] = point.method if points[point.method] == 1 else point.label
            cells.append(about | columns | {"share": share, "p": claim.p("beyond")})
            p_below.append(claim.p("worst") if worst.value < 0 else 1.0)
    if not cells:
        raise ValueError("no shift with a dpo and a method to compare with it")
    frame = pd.DataFrame(cells)
    frame["p_holm"] = holm(frame["p"].tolist())
    above, below = frame["p_holm"] < LEVEL, np.array(holm(p_below)) < LEVEL
    frame["sign"] = above.astype(int) - below.astype(int)
    return frame


def with_predictions(cells: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """The cells with ``predicted`` and ``reason`` (columns ``shift``, ``method``, ``sign``, ``reason``), and ``right``.

    Raises:
        ValueError: a cell without a prediction.
    """
    renamed = predictions.rename(columns={"sign": "predicted"})[["shift", "method", "predicted", "reason"]]
    both = cells.merge(renamed, on=["shift", "method"], how="left", validate="one_to_one")
    if both["predicted"].isna().any():
        missing = both[both["predicted"].isna()].iloc[0]
        raise ValueError(f"predictions: none for {missing['method']} under {missing['shift']!r}")
    return both.assign(predicted=both["predicted"].astype(int), right=both["predicted"].astype(int) == both["sign"])


def matrix(cells: pd.DataFrame) -> pd.DataFrame:
    """Shifts by methods: gain beyond dpo at the same distance in hundredths, with a mark where it is shown."""
    rows = []
    for shift, part in cells.groupby("shift", sort=False):
        row = {"shift": str(shift)}
        for cell in part.to_dict("records"):
            e = Estimate.of_columns(cell, "beyond", int(cell["seeds"]))
            text = f"{100 * e.value:+.0f}"
            row[str(cell["method"])] = f"{text} ✓" if cell["sign"] else text
        rows.append(row)
    return pd.DataFrame(rows)
