"""A run killed at random ends as one that nobody disturbed; ``python -m tests.run.kills`` kills more often."""

from __future__ import annotations

import subprocess
import sys

from tests.sweeps.shell import ROOT


def test_ten_kills_cost_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.run.kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "every run ended as if undisturbed" in done.stdout
