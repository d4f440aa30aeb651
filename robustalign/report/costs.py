"""What robustness costs: time and memory of training relative to dpo, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from robustalign.report import statistics
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate
from robustalign.report.tables import text

STAGES = ("prepare", "train", "evaluate", "controls")
UNITS = (("seconds", "s"), ("memory_gb", "GB"))
GB = 1e9
WARM_UP = 2  # steps left out of the time of a step


def costs_table(setting: Setting, histories: pd.DataFrame) -> pd.DataFrame:
    """One row a point, every number with ``_low`` and ``_high`` over its seeds.

    Of a training step ``step_seconds`` and ``memory_gb`` with their ratios to dpo's (``_ratio``), then
    ``train_pair_seconds``, and ``<stage>_seconds`` and ``<stage>_memory_gb`` of each stage. The time of a step is the
    median over steps. The memory of a step is the most up to the first evaluation that any point has between its
    steps: what an evaluation takes is not given back, and would count as dpo's.
    """
    later = histories[histories["step"] > WARM_UP]
    seconds = later[later["name"] == "cost/step_seconds"].groupby("run_id")["value"].median().to_dict()
    memory_rows = histories[(histories["name"] == "cost/memory_bytes") & (histories["step"] <= _undisturbed(setting))]
    memory = (memory_rows.groupby("run_id")["value"].max() / GB).to_dict()
    rows = []
    for point in setting.points:
        row: dict[str, Any] = {"label": point.label, "method": point.method, "seeds": len(point.seeds)}
        for name, values in (("step_seconds", seconds), ("memory_gb", memory)):
            row |= _mean(point, values).columns(name)
            row |= _ratio(point, setting.baseline, values).columns(f"{name}_ratio")
        row |= _mean(point, _metric(point, "cost/seconds_per_pair")).columns("train_pair_seconds")
        for stage in STAGES:
            row |= _mean(point, _metric(point, f"cost/seconds/{stage}")).columns(f"{stage}_seconds")
            row |= _mean(point, _metric(point, f"cost/memory_bytes/{stage}", GB)).columns(f"{stage}_memory_gb")
        rows.append(row)
    return pd.DataFrame(rows)


def short_costs(table: pd.DataFrame) -> pd.DataFrame:
    """The same as text for people: what was measured at all."""
    names = {"step_seconds": "a step, s", "step_seconds_ratio": "over dpo's"}
    names |= {"memory_gb": "memory of a step, GB", "memory_gb_ratio": "memory over dpo's"}
    names |= {f"{stage}_{of}": f"{stage}, {unit}" for stage in STAGES for of, unit in UNITS}
    rows = []
    for row in table.to_dict("records"):
        cells = {heading: text(_estimate(row, name), digits=2) for name, heading in names.items()}
        rows.append({"point": row["label"]} | cells)
        rows[-1]["n"] = f"{row['seeds']} seeds"
    short = pd.DataFrame(rows)
    return short[[name for name in short if (short[name] != "-").any()]]


def cost_of_robustness(table: pd.DataFrame) -> dict[str, str]:
    """By point the seconds of a training step over dpo's; empty where no dpo was run or nothing was timed."""
    if table["step_seconds_ratio"].isna().all():
        return {}
    return {row["label"]: text(_estimate(row, "step_seconds_ratio"), digits=2) for row in table.to_dict("records")}


def _undisturbed(setting: Setting) -> float:
    """The last step before which no run of the setting was evaluated."""
    runs = [run for point in setting.points for run in point.runs.values()]
    steps = [step for run in runs for step in (run.config.get("evaluation") or {}).get("steps") or ()]
    return min((step for step in steps if step > 0), default=math.inf)


def _metric(point: Point, metric: str, unit: float = 1.0) -> dict[str, float]:
    return {run.run_id: run.metrics[metric] / unit for run in point.runs.values() if metric in run.metrics}


def _mean(point: Point, values: dict[str, float]) -> Estimate:
    measured = [values[run.run_id] for run in point.runs.values() if run.run_id in values]
    return statistics.of_seeds(np.array(measured)).within(0.0, math.inf) if measured else Estimate.missing()


def _estimate(row: Mapping[str, Any], name: str) -> Estimate:
    """An estimate of the table; without seeds where nothing was measured."""
    return Estimate.of_columns(row, name, row["seeds"] if row[name] == row[name] else 0)


def _ratio(point: Point, dpo: Point | None, values: dict[str, float]) -> Estimate:
    if dpo is None:
        return Estimate.missing()
    pairs = [(point.runs[seed].run_id, dpo.runs[seed].run_id) for seed in point.seeds if seed in dpo.runs]
    ratios = [values[one] / values[other] for one, other in pairs if one in values and other in values]
    return statistics.of_seeds(np.array(ratios)) if ratios else Estimate.missing()
