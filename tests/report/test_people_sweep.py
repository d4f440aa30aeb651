"""From votes in a file through a sweep to the report of it, all by commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import SMALL
from tests.pipeline.test_run_people import SIZES, write


def command(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "robustalign.cli.main", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_report_of_people_has_its_table_its_words_and_its_diagram(tmp_path: Path) -> None:
    output = f"paths.output={tmp_path}"
    small = [word for word in SMALL if not word.startswith(("dataset.", "shift."))]
    data = ("dataset=preferences", f"dataset.path={write(tmp_path / 'votes.jsonl')}", "evaluation.annotator=who")
    shift = ("++dataset.columns={country: country, who: who}", "shift=groups", "shift.by=country", "shift.min_rows=5")
    rest = ("tracking.experiment=votes", output, f"paths.cache={tmp_path / 'cache'}", "method=dpo,kldpo")
    command("train", "-m", *small, *SIZES, *data, *shift, *rest)
    command("report", "experiment=votes", output, "draws=100")
    folder = tmp_path / "reports" / "votes"
    summary = (folder / "summary.md").read_text()
    assert "Two people agree on the same item in: nominal 0." in summary
    assert "accuracy, worst group" in (folder / "table.md").read_text()
    assert (folder / "reliability.png").stat().st_size > 5000 and (folder / "report.html").is_file()
