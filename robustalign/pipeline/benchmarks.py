"""The stage ``benchmarks``: public tasks on the trained policy, and on its reference once for all runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers import PreTrainedModel

from robustalign.config import HarnessConfig
from robustalign.evaluation.controls import REFERENCE, TRAINED
from robustalign.evaluation.harness import run_harness, settings
from robustalign.pipeline import inputs
from robustalign.pipeline.stages import Stages

FILE = "benchmarks.csv"  # in a run's results/


def benchmarks(stages: Stages, policy: PreTrainedModel) -> pd.DataFrame:
    """``control`` and the columns of :func:`robustalign.evaluation.harness.run_harness`, of policy and reference."""
    config = stages.config.evaluation.harness
    tables = {TRAINED: run_harness(policy, stages.tokenizer, config), REFERENCE: _of_reference(stages, config)}
    return pd.concat([table.assign(control=str(control)) for control, table in tables.items()], ignore_index=True)


def _of_reference(stages: Stages, config: HarnessConfig) -> pd.DataFrame:
    key = {"version": 1, "model": stages.model_key, "harness": settings(config)}
    if tasks := inputs.harness_tasks(stages.config):
        key["tasks"] = tasks["include"]

    def build(target: Path) -> None:
        run_harness(stages.reference, stages.tokenizer, config).to_csv(target / FILE, index=False)

    return pd.read_csv(stages.cache.get("benchmarks", key, build) / FILE)
