"""What it costs to compose, check and plan the runs of a large sweep: CPU seconds of the launching process.

    python benchmarks/composing.py [RUNS]     default: 1200

The runs differ in method, beta and seed; a dry run does everything up to their start.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile

FEW = 12


def seconds(runs: int, folder: str) -> float:
    """User and system time of a dry run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["method=dpo,kldpo,wdpo,tv", "method.beta=0.1,0.2,0.3", f"seed=range({runs // 12})", "sweep.dry_run=true"]
    places = [f"paths.output={folder}/outputs", f"paths.cache={folder}/cache", "tracking=spool"]
    command = [sys.executable, "-m", "robustalign.cli.train", "-m", *places, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Print the seconds for a small and a large sweep, and what each further run costs."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1200
    with tempfile.TemporaryDirectory() as folder:
        few, many = seconds(FEW, folder), seconds(runs, folder)
    print(f"{FEW} runs {few:.2f} s, {runs} runs {many:.2f} s: {1000 * (many - few) / (runs - FEW):.2f} ms a run")


if __name__ == "__main__":
    main()
