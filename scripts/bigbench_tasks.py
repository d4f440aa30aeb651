#!/usr/bin/env python
"""Multiple-choice tasks of BIG-bench as tasks of the LM Evaluation Harness, from the package's archive, without a hub.

    pip download --no-deps --no-binary :all: bigbench==1.0.0
    python scripts/bigbench_tasks.py bigbench-1.0.0.tar.gz --to tasks snarks hyperbaton hhh_alignment/harmless
    robustalign train ... evaluation.harness.include=tasks 'evaluation.harness.tasks=[bb_snarks,bb_hyperbaton]'

They are ancestors of the tasks of BIG-bench Hard, and not the same. BIG-bench (Apache 2.0; Srivastava et al., arXiv
2206.04615) asks that its data never appear in training corpora.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

PLACE = "bigbench/benchmark_tasks/{}/task.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Write a yaml and a jsonl file for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the .tar.gz of bigbench")
    parser.add_argument("tasks", nargs="+", help="folders below benchmark_tasks, such as snarks")
    parser.add_argument("--to", type=Path, required=True, help="folder of the harness's tasks")
    args = parser.parse_args(argv)
    wanted = {PLACE.format(name): name for name in args.tasks}
    args.to.mkdir(parents=True, exist_ok=True)
    with tarfile.open(args.archive) as archive:
        for member in archive:
            name = wanted.pop(member.name.partition("/")[2], None)
            if name is not None and (file := archive.extractfile(member)) is not None:
                count = write(name, json.load(file), args.to.absolute())
                print(f"bb_{name.replace('/', '_')}: {count:,} questions")
    if wanted:
        print(f"the archive has no task {', '.join(wanted.values())}", file=sys.stderr)
    return 2 if wanted else 0


def write(name: str, task: dict[str, Any], folder: Path) -> int:
    """The questions of a task whose answers are choices with scores; returns how many there are.

    Raises:
        SystemExit: the task is no multiple choice.
    """
    questions = [example for example in task["examples"] if "target_scores" in example]
    if not questions:
        raise SystemExit(f"{name}: no example has target_scores; it is no multiple choice")
    plain = f"bb_{name.replace('/', '_')}"
    data = folder / f"{plain}.jsonl"
    with data.open("w", encoding="utf-8") as lines:
        for example in questions:
            choices = list(example["target_scores"])
            best = max(range(len(choices)), key=lambda i: example["target_scores"][choices[i]])
            row = {"input": example["input"].strip(), "choices": choices, "answer": best}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    settings = {
        "task": plain,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{input}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "metadata": {"version": 1.0},
    }
    (folder / f"{plain}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return len(questions)


if __name__ == "__main__":
    sys.exit(main())
