"""The run to go on with is chosen by nominal validation values alone."""

from __future__ import annotations

import pytest

import robustalign
from robustalign.errors import ConfigError
from robustalign.report.best import best_run
from robustalign.run.folder import RunFolder
from tests.report.conftest import make
from tests.report.synthetic import bring


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("best")
    bring(make(folder, ("dpo", "kldpo_t1", "kldpo_t0.5"), (0, 1)))
    return folder


def test_the_strongest_setting_within_the_tolerance_and_its_best_seed(output) -> None:
    tolerance, label = 10.0, "kldpo tau=0.5"
    chosen = RunFolder(output / "runs" / best_run("demo", None, output, metric="reward", tolerance=tolerance))
    frame = robustalign.runs("demo", output=output, split="validation")
    rows = frame[(frame["label"] == label) & (frame["metric"] == "reward") & (frame["target"] == "nominal")]
    assert chosen.config().label == label
    assert chosen.config().seed == rows.loc[rows["value"].idxmax(), "seed"]


def test_what_cannot_be_chosen_is_said(output) -> None:
    with pytest.raises(ConfigError, match=r"--method: no 'wdpo' in 'demo'; there are: kldpo"):
        best_run("demo", None, output, method="wdpo")
    with pytest.raises(ConfigError, match=r"--metric: validation prompts have: "):
        best_run("demo", None, output, metric="beauty")
