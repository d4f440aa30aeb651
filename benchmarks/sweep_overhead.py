"""What a sweep costs beside its runs: from command to first step, and wall time over work.

Times are wall times of real commands (``scripts/train.py``) with the shipped model; run it on a quiet machine.

Run: python benchmarks/sweep_overhead.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from robustalign.run import journal
from robustalign.run.folder import RunFolder
from robustalign.sweeps.backends.local import cores
from robustalign.sweeps.sweep import find

TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
KEYS = (
    "dataset.train_prompts=500",
    "dataset.validation_prompts=50",
    "dataset.test_prompts=50",
    "trainer.threads=1",
    "trainer.device=cpu",
    "evaluation.generate=never",
    "evaluation.splits=[test]",
    "evaluation.bootstrap=200",
)
PARTS = {
    "Python, Hydra, the command line": "robustalign.cli.train",
    "torch, transformers, datasets, peft, pandas": "robustalign.pipeline.run",
    "MLflow (a thread of the launcher, beside the runs)": "mlflow.tracking",
}


def train(output: Path, *words: str) -> None:
    """A command to its end."""
    places = (f"paths.output={output}", f"paths.cache={output / 'cache'}")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, str(TRAIN), *KEYS, *places, *words], env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def first_step(output: Path, seed: int) -> dict[str, float]:
    """Seconds from typing a command to what happens up to its run's first training step."""
    begin = time.time()
    train(output, f"seed={seed}", "trainer.max_steps=2")
    (run,) = find(output).runs
    records = list(journal.read(run.folder.journal))
    told = {
        "imported, checked and frozen": (output / "sweeps" / find(output).id / "sweep.json").stat().st_mtime,
        "process of the run began": run.folder.status().started or 0.0,
        "data are there": next(r["time"] for r in records if r["kind"] == "dataset") / 1000,
        "first training step done": next(r["time"] for r in records if "train/loss" in r.get("values", {})) / 1000,
    }
    return {name: moment - begin for name, moment in told.items()}


def import_seconds(module: str) -> float:
    """CPU seconds of an import in a fresh process, the interpreter's start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spent(folder: RunFolder) -> Counter[str]:
    """Seconds of a run's stages, by its own clock, and in all."""
    values = [r["values"] for r in journal.read(folder.journal) if r["kind"] == "metrics"]
    stages = {k: v for each in values for k, v in each.items() if k.startswith("cost/seconds/") and "saved" not in k}
    stages = {key.removeprefix("cost/seconds/"): v for key, v in stages.items()}
    return Counter(stages | {"run": folder.status().seconds})


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of a run")
    parser.add_argument("--starts", type=int, default=5, help="commands whose first step is timed")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch)
        train(output, "trainer.max_steps=2")  # fills the cache, makes the store
        if options.starts:
            imports = {name: import_seconds(module) for name, module in PARTS.items()}
            starts = [first_step(output, seed) for seed in range(1, 1 + options.starts)]
            medians = {name: statistics.median(start[name] for start in starts) for name in starts[0]}
            figures["start"], figures["imports"] = starts, imports
            print(f"\n### From command to first step (median of {options.starts})\n\n| until | s |\n| --- | --- |")
            print("\n".join(f"| {name} | {seconds:.2f} |" for name, seconds in medians.items()))
            print("\n| import, on its own | CPU s |\n| --- | --- |")
            print("\n".join(f"| {name} | {seconds:.2f} |" for name, seconds in imports.items()))
        if options.runs:
            begin = time.time()
            seeds = ",".join(map(str, range(100, 100 + options.runs)))
            train(output, "-m", f"seed={seeds}", f"trainer.max_steps={options.steps}")
            wall, workers = time.time() - begin, cores()
            total = sum((spent(run.folder) for run in find(output).runs), Counter())
            figures["sweep"] = {"wall": wall, "workers": workers, "seconds": total}
            print(f"\n### {options.runs} runs of {options.steps} steps, {workers} at once: {wall:.1f} s\n")
            print("| seconds of all runs | s | wall time over (this / workers) |\n| --- | --- | --- |")
            for name, seconds in total.most_common():
                print(f"| {name} | {seconds:.1f} | {wall * workers / seconds:.2f} |")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
