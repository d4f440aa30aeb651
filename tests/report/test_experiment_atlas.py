"""The atlas of an experiment's runs says what their comparisons say."""

from __future__ import annotations

import pytest

from robustalign.evaluation.metrics import METRICS
from robustalign.report.atlas import experiment_cells, matrix
from robustalign.report.settings import settings
from robustalign.report.statistics import holm
from tests.report.synthetic import records


def test_cells_are_the_comparisons_of_the_methods_under_test(sweep, comparison) -> None:
    cells = experiment_cells(settings(records(sweep)), draws=500)
    assert cells["method"].tolist() == ["kldpo tau=1", "kldpo tau=0.5", "wdpo"], "one point: by its method's name"
    claims = [comparison.claim(point, METRICS["reward"]) for point in comparison.setting.robust]
    for (_, cell), claim in zip(cells.iterrows(), claims, strict=True):
        assert (cell["gain"], cell["gain_low"]) == (claim.worst.value, claim.worst.low)
        assert cell["beyond"] == claim.matched_kl.value and cell["nominal"] == claim.nominal.value
        assert cell["share"] == claim.gap_closed.value
    above, below = (holm(list(ps)) for ps in zip(*map(_one_sided, claims), strict=True))
    expected = [(a < 0.05) - (b < 0.05) for a, b in zip(above, below, strict=True)]
    assert cells["sign"].tolist() == expected
    assert matrix(cells)["shift"].tolist() == [comparison.setting.config["shift"]["name"]]


def _one_sided(claim) -> tuple[float, float]:
    return claim.p("beyond"), claim.p("worst") if claim.worst.value < 0 else 1.0


def test_runs_without_a_dpo_have_no_cells(sweep) -> None:
    (setting,) = settings([run for run in records(sweep) if run.label.startswith("oracle")])
    with pytest.raises(ValueError, match="no shift with a dpo"):
        experiment_cells([setting])
