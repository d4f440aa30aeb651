"""One small experiment of known truth, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustalign.report.compare import Comparison
from robustalign.report.measures import Measures
from robustalign.report.settings import settings
from robustalign.sweeps.sweep import Sweep
from tests.report.synthetic import Scene, configs, launch, records

POINTS = ("dpo", "dpo_half_rate", "kldpo_t1", "kldpo_t0.5", "wdpo_r0.03", "oracle")
SEEDS = (0, 1, 2)


def make(output: Path, points=POINTS, seeds=SEEDS, *overrides: str, scene: Scene | None = None) -> Sweep:
    wanted = configs(points, seeds, output, *overrides)
    return launch(wanted, [point for point in points for _ in seeds], scene or Scene(prompts=150))


@pytest.fixture(scope="session")
def sweep(tmp_path_factory) -> Sweep:
    return make(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="session")
def comparison(sweep) -> Comparison:
    (setting,) = settings(records(sweep))
    return Comparison(Measures(setting, draws=500))
