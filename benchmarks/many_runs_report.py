"""What a report of many runs costs: CPU seconds, wall seconds and memory.

    python benchmarks/many_runs_report.py EXPERIMENT [--output outputs] [--runs 1000] [--json FILE]

The finished runs of an experiment are taken again under other seeds until there are so many, each with a folder of its
own, and reported as ``robustalign report`` does. The store is read once, for the experiment's own runs: what it takes
to read many is in ``tidy_runs.py``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from robustalign.report.build import SettingReport
from robustalign.report.load import Run, load_runs
from robustalign.report.settings import settings

APART = 1000  # between the seeds of one copy and of the next


def main() -> None:
    """Multiply, report, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    output = options.output.absolute()
    uri = f"sqlite:///{output / 'mlflow.db'}"
    finished = [run for run in load_runs(uri, options.experiment, output, None) if run.has_results]
    if not finished:
        parser.error(f"{options.experiment!r} has no finished run in {output}")
    with tempfile.TemporaryDirectory() as folder:
        many = multiplied(finished, max(1, round(options.runs / len(finished))), Path(folder))
        before, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
        for setting in settings(many):
            SettingReport(setting, options.experiment, uri, Path(folder) / "report", 2000).write()
        found = {
            "runs": len(many),
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_mb": peak_mb(),
            "imports_and_runs_mb": before,
        }
    print("\n".join(f"{name:20s}{value:10.1f}" for name, value in found.items()))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def multiplied(runs: list[Run], copies: int, folder: Path) -> list[Run]:
    """Every run under ``copies`` seeds; the first keep their entries in the store, and so their histories."""
    many = list(runs)
    for run in runs:
        for copy in range(1, copies):
            files = folder / f"{run.run_id}_{copy}"
            files.mkdir()
            (files / "results").symlink_to(run.files / "results")
            config = {**run.config, "seed": run.seed + APART * copy}
            many.append(replace(run, run_id=files.name, uid=f"{run.uid}_{copy}", config=config, files=files))
    return many


def peak_mb() -> float:
    """The most memory that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
