"""Every experiment that ships composes with every point of its sweep, in every size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from robustalign.config import config_dir
from tests.conftest import compose_config

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    str(path.relative_to(config_dir() / "experiment"))[:-5]: path for path in config_dir().glob("experiment/**/*.yaml")
}
GIVEN = {"dataset.path": ROOT / "README.md", "evaluation.harness.include": ROOT}  # data that are not shipped


def sweep_of(path: Path) -> dict[str, list[str]]:
    """What an experiment sweeps over; of a file that builds on another, the other's where it says nothing."""
    spec = yaml.safe_load(path.read_text())
    own = spec.get("hydra", {}).get("sweeper", {}).get("params", {})
    below = [name for name in spec.get("defaults", []) if isinstance(name, str) and name in FILES]
    params = {} if not below else sweep_of(FILES[below[0]])
    return params | {key: str(values).split(",") for key, values in own.items()}


@pytest.mark.parametrize("name", sorted(FILES))
def test_it_composes_with_every_point(name: str) -> None:
    sweep = sweep_of(FILES[name])
    own_tasks = name.startswith("leaderboard/s")
    own_data = "dataset.path=" in FILES.get(f"{name.partition('/')[0]}/small", FILES[name]).read_text()
    given = [
        f"{key}={value}" for (key, value), needs in zip(GIVEN.items(), (own_data, own_tasks), strict=True) if needs
    ]
    given += ["evaluation.harness.tasks=[some]"] if own_tasks else []
    labels = set()
    for point in sweep.get("point", [None]):
        config = compose_config(f"experiment={name}", *given, *([f"point={point}"] if point else []))
        labels.add(config.label or config.method["name"])
        assert config.tracking.experiment.split("_")[0] == name.partition("/")[0].split("_")[0]
    assert len(labels) == len(sweep.get("point", [None])), "points of one sweep have labels of their own"


def test_the_tests_that_the_page_of_traps_names_exist() -> None:
    page = (ROOT / "docs" / "experiments.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    written = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 15 and not named - written
