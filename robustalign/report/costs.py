"""What robustness costs: time and memory of training relative to dpo, seed by seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from robustalign.report import statistics
from robustalign.report.statistics import Estimate
from robustalign.report.study import Point, Setting

STAGES = ("prepare", "train", "evaluate", "controls")
WARM_UP = 2  # steps left out of the time of a step


def costs_table(setting: Setting, histories: pd.DataFrame) -> pd.DataFrame:
    """One row a point: seconds and memory of a step with their ratio to dpo's, and seconds of each stage.

    The time of a step is the median over steps. Memory is the most while training, up to the first evaluation
    that any point has between its steps: what an evaluation takes is not given back, and would count as dpo's.
    """
    later = histories[histories["step"] > WARM_UP]
    seconds = later[later["name"] == "cost/step_seconds"].groupby("run_id")["value"].median().to_dict()
    used = histories[(histories["name"] == "cost/memory_bytes") & (histories["step"] <= _undisturbed(setting))]
    memory = used.groupby("run_id")["value"].max().to_dict()
    rows = []
    for point in setting.points:
        row: dict[str, Any] = {"label": point.label, "method": point.method, "seeds": len(point.seeds)}
        for name, values, unit in (("step_seconds", seconds, 1.0), ("memory", memory, 1e9)):
            row["memory_gb" if name == "memory" else name] = _mean(point, values, unit)
            ratio = _ratio(point, setting.baseline, values)
            name = f"{name}_ratio"
            row |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
        for stage in STAGES:
            told = {run.run_id: run.metrics.get(f"cost/seconds/{stage}", np.nan) for run in point.runs.values()}
            row[f"{stage}_seconds"] = _mean(point, told, 1.0)
        pair = {run.run_id: run.metrics.get("cost/seconds_per_pair", np.nan) for run in point.runs.values()}
        row["train_seconds_per_pair"] = _mean(point, pair, 1.0)
        rows.append(row)
    return pd.DataFrame(rows)


def _undisturbed(setting: Setting) -> float:
    """The last step before which no run of the setting was evaluated."""
    runs = [run for point in setting.points for run in point.runs.values()]
    steps = [step for run in runs for step in (run.config.get("evaluation") or {}).get("steps") or ()]
    return min((step for step in steps if step > 0), default=math.inf)


def _mean(point: Point, values: dict[str, float], unit: float) -> float:
    found = [values[run.run_id] / unit for run in point.runs.values() if run.run_id in values]
    return float(np.mean(found)) if found else np.nan


def _ratio(point: Point, dpo: Point | None, values: dict[str, float]) -> Estimate:
    if dpo is None:
        return Estimate.missing()
    pairs = [(point.runs[seed].run_id, dpo.runs[seed].run_id) for seed in point.seeds if seed in dpo.runs]
    ratios = [values[ours] / values[theirs] for ours, theirs in pairs if ours in values and theirs in values]
    return statistics.of_seeds(np.array(ratios)) if ratios else Estimate.missing()
