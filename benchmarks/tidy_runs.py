"""What ``robustalign.runs`` costs on 1,000 runs x 11 targets: seconds, memory, and the size of the frame.

    python benchmarks/tidy_runs.py [--runs 1000] [--targets 11] [--json FILE]

A store is filled with finished runs as a sweep leaves them (config, journal, results); reading it happens in a process
of its own, whose memory is its peak above that after the imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from hydra import compose, initialize_config_dir

from robustalign.checks import resolve
from robustalign.config import config_dir, register
from robustalign.evaluation.targets import COLUMNS
from robustalign.tracking import Importer, RunView

READ = """
import json, resource, sys, time
import robustalign, pandas, yaml
from robustalign.tracking import open_store
open_store(sys.argv[1])
before, wall, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
frame = robustalign.runs("many", uri=sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({
    "seconds": wall, "cpu_seconds": cpu, "peak_gb": after / 2**20, "above_imports_gb": (after - before) / 2**20,
    "frame_mb": frame.memory_usage(deep=True).sum() / 1e6, "rows": len(frame), "runs": frame["run_id"].nunique(),
    "targets": int(frame.loc[frame["metric"] == "reward", "target"].nunique()),
}))
"""


def main() -> None:
    """Fill a store, read it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--targets", type=int, default=11)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        uri = fill(Path(folder), options.runs, options.targets)
        print(f"{options.runs} runs written in {time.perf_counter() - started:.0f} s", flush=True)
        read = subprocess.run([sys.executable, "-c", READ, uri], check=True, capture_output=True, text=True)
    found = json.loads(read.stdout)
    print("\n".join(f"{name:18s}{value:10.2f}" for name, value in found.items()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def fill(folder: Path, runs: int, targets: int) -> str:
    """A store with finished runs of five methods. Returns its URI."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = asdict(resolve(compose("config", ["experiment=radius_sweep", "point=kldpo_t0.5"])))
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    importer = Importer(uri, "many", folder / "mlartifacts")
    parent = importer.sweep("many", f"sweep of {runs}", {})
    rng = np.random.default_rng(0)
    for number in range(runs):
        method, seed = ("dpo", "kldpo", "wdpo", "drdpo", "oracle")[number % 5], number // 5
        place = folder / "runs" / f"{number}"
        (place / "results").mkdir(parents=True)
        config["method"]["name"], config["seed"], config["label"] = method, seed, method
        (place / "config.yaml").write_text(yaml.safe_dump(config))
        table = results(rng, targets)
        table.to_csv(place / "results" / "targets.csv", index=False, float_format="%.10g")
        told = table[(table["control"] == "policy") & (table["step"] == 80)]
        names = [f"eval/{split}/{t}/{m}" for split, t, m in told[["split", "target", "metric"]].itertuples(index=False)]
        record = {"kind": "metrics", "step": 80, "time": 1, "values": dict(zip(names, told["value"], strict=True))}
        view = RunView(
            uid=str(number),
            name=f"{method} seed={seed}",
            state="FINISHED",
            folder=place,
            params={"method.name": method, "seed": seed, "label": method},
            tags={"robustalign.sweep": "many", "robustalign.method": method},
            files=("config.yaml", "results"),
        )
        importer.bring(view, lambda offset, told=record: iter([(told, 1)] if offset == 0 else []), parent)
    return uri


def results(rng: np.random.Generator, targets: int) -> pd.DataFrame:
    """The long table of a run: the policy at two steps and the reference, on two splits."""
    names = [f"joy_{k / (targets - 1):.2g}" for k in range(targets)]
    where = [k / (targets - 1) for k in range(targets)]
    rows = []
    for control, step in (("policy", 40), ("policy", 80), ("reference", 0)):
        for split in ("validation", "test"):
            for metric in ("reward", "accuracy", "loss"):
                summaries = [("worst", np.nan), ("area", np.nan), ("nominal", 0.0)]
                for target, coordinate in [*zip(names, where, strict=True), *summaries]:
                    value = float(rng.normal())
                    rows.append(
                        (control, split, step, target, coordinate, metric, value, value - 0.1, value + 0.1, 500)
                    )
    return pd.DataFrame(rows, columns=COLUMNS)


if __name__ == "__main__":
    main()
