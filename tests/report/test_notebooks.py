"""The notebooks run from top to bottom, and are kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.report.conftest import make
from tests.report.synthetic import Scene, bring

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """Where the notebooks read and write; with an experiment ``demo`` as ``make demo`` leaves it."""
    output = tmp_path_factory.mktemp("outputs")
    bring(make(output, ("dpo", "kldpo_t0.5", "wdpo_r0.03", "oracle"), (0, 1, 2), scene=Scene(prompts=200)))
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {"ROBUSTALIGN_OUTPUT": str(output), "ROBUSTALIGN_CACHE": str(output / "cache"), "PYTHONPATH": paths}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    nbformat = pytest.importorskip("nbformat")
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, places, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=1000, kernel_name="python3", resources=folder).execute()
