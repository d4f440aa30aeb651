"""What preparing people's comparisons takes: CPU seconds and memory above the imports, for data of several sizes.

    python benchmarks/prepare_pairs.py [--rows 5000 50000 500000] [--num-proc 1] [--json FILE]

Each size in a process of its own: rows are read from JSON lines, split, tokenised, both replies scored for joy, and
made pairs in the order of training. Memory is the peak of what the process holds itself (RssAnon; pages of
memory-mapped files are the system's to take back), with the children's of ``--num-proc``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TEXT = "the a tea coffee rain snow we you they like think know never always really maybe house road green old new"
WORDS = tuple(TEXT.split())


def write_rows(file: Path, count: int) -> None:
    """Prompts of 10 to 30 words, replies of 20 to 60."""
    rng = random.Random(0)
    with open(file, "w") as stream:
        for i in range(count):
            said = [" ".join(rng.choices(WORDS, k=rng.randint(*k))) for k in ((10, 30), (20, 60), (20, 60))]
            row = {"prompt": f"{i} {said[0]}", "chosen": said[1], "rejected": said[2], "country": rng.choice("AB")}
            stream.write(json.dumps(row) + "\n")


class Peak(threading.Thread):
    """The largest memory of this process and its children, in MiB, looked at ten times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self.start()

    def run(self) -> None:
        """Look until the process ends."""
        while True:
            self.most = max(self.most, anonymous())
            time.sleep(0.1)


def anonymous() -> float:
    """MiB that this process and its children hold themselves."""
    import psutil

    total = 0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except FileNotFoundError:
            continue
        total += next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return total / 1024


def cpu() -> float:
    """CPU seconds of this process and of its children that ended."""
    return sum(os.times()[:4])


def measure(file: Path, num_proc: int) -> dict[str, float]:
    """CPU seconds of each stage and the peak above the imports."""
    import datasets
    import numpy as np
    from hydra import compose, initialize_config_dir

    from robustalign.cache import ArtefactCache
    from robustalign.checks import resolve
    from robustalign.config import config_dir, register
    from robustalign.data.candidates import Candidates
    from robustalign.data.given import given_candidates
    from robustalign.data.pairs import PairColumns, TrainingRows
    from robustalign.data.rows import rows
    from robustalign.policies.encode import Encoder
    from robustalign.policies.load import asset_folder, load_tokenizer
    from robustalign.rewards import score_all, scorer_module
    from robustalign.shifts import Pairs

    datasets.disable_progress_bars()
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        words = [f"dataset.path={file}", "+dataset.columns.country=country", f"dataset.num_proc={num_proc}"]
        config = resolve(compose("config", overrides=["dataset=preferences", *words, "model.max_length=512"]))
    encoder = Encoder(load_tokenizer(asset_folder("chitchat_tiny")))
    before, peak, seconds = anonymous(), Peak(), {}
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        begin = cpu()
        found = rows(config.dataset, ArtefactCache(Path(folder)))
        seconds["read"] = cpu() - begin
        begin = cpu()
        target = Path(folder) / "candidates"
        target.mkdir()
        given_candidates(config, "train", encoder, found, target)
        seconds["tokenise"] = cpu() - begin
        joy, rewards = config.reward["joy"], Path(folder) / "rewards"
        rewards.mkdir()
        scorer_module("joy", joy).prepare(rewards)
        begin = cpu()
        table = datasets.load_from_disk(str(target))
        replies = [reply for row in table["replies"][:] for reply in row]
        score_all({"joy": joy}, lambda scorer, module: rewards, replies, replies)
        seconds["score"] = cpu() - begin
        del replies
        begin = cpu()
        table = datasets.load_from_disk(str(target))
        one = np.ones(len(table))
        candidates = Candidates(table, {}, np.zeros((len(table), 2), dtype=np.float32))
        zero = np.zeros(len(table), dtype=np.int64)
        pairs = Pairs(np.arange(len(table)), zero, zero + 1, one, zero, {})
        training = TrainingRows(pairs, candidates, PairColumns(), steps=len(table) // 64, batch_size=64, seed=0)
        for i in range(0, len(training), max(1, len(training) // 2000)):
            training[i]
        seconds["order"] = cpu() - begin
    return {
        **{f"seconds_{k}": round(v, 2) for k, v in seconds.items()},
        "mib": round(max(peak.most, anonymous()) - before, 1),
    }


def main() -> None:
    """One line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--num-proc", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.num_proc)))
        return
    results = []
    for count in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.jsonl"
            write_rows(file, count)
            command = [sys.executable, __file__, "--measure", str(file), "--num-proc", str(args.num_proc)]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results.append({"rows": count, "num_proc": args.num_proc, **json.loads(said.splitlines()[-1])})
        print(results[-1], flush=True)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
