"""A command that reads results says at once that there are none, before it imports what reads them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from robustalign.errors import ConfigError
from robustalign.stores import sqlite_file
from robustalign.tracking import Importer
from robustalign.tracking.glance import check_results
from tests.sweeps.shell import ROOT
from tests.tracking.test_importer import bring, view


def test_only_an_experiment_with_runs_passes(uri, tmp_path):
    Importer(uri, "empty", tmp_path / "mlartifacts")
    (tmp_path / "run").mkdir()
    bring(Importer(uri, "full", tmp_path / "mlartifacts"), view(tmp_path / "run"))
    file = sqlite_file(uri)
    check_results(file, "full")
    with pytest.raises(ConfigError, match=r"'empty' has no runs.*with runs: full"):
        check_results(file, "empty")
    with pytest.raises(ConfigError, match="'other' is not in"):
        check_results(file, "other")
    (tmp_path / "no.db").write_text("no store")
    check_results(tmp_path / "no.db", "full")


@pytest.mark.parametrize("command", ["report", "choose"])
def test_nothing_heavy_is_imported_where_there_are_no_results(uri, tmp_path, command):
    program = (
        f"import sys\nsys.argv = ['x', 'experiment=nothing', 'paths.output={tmp_path}']\n"
        f"from robustalign.cli.{command} import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 2\n"
        "assert not {'torch', 'mlflow', 'matplotlib', 'pandas', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "experiment: 'nothing' is not in" in done.stderr
