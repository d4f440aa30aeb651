"""Tasks of BIG-bench's archive become tasks that the LM Evaluation Harness reads."""

from __future__ import annotations

import io
import json
import runpy
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bigbench_tasks.py"
QUESTIONS = [
    {"input": " Which is warmer? ", "target_scores": {"ice": 0, "tea": 1}},
    {"input": "Which is largest?", "target_scores": {"a mouse": 0, "a cat": 0, "a whale": 1}},
    {"input": "Say anything.", "target": "anything"},
]


@pytest.fixture(scope="module")
def main() -> Callable[[Sequence[str]], int]:
    return runpy.run_path(str(SCRIPT))["main"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of the package's layout, with a task of choices and one without."""
    path = tmp_path / "bigbench-1.0.0.tar.gz"
    tasks = {"warm/easy": QUESTIONS, "free": QUESTIONS[2:]}
    with tarfile.open(path, "w:gz") as made:
        for name, examples in tasks.items():
            content = json.dumps({"examples": examples}).encode()
            entry = tarfile.TarInfo(f"bigbench-1.0.0/bigbench/benchmark_tasks/{name}/task.json")
            entry.size = len(content)
            made.addfile(entry, io.BytesIO(content))
    return path


def test_choices_keep_their_order_and_the_best_is_the_answer(main, archive: Path, tmp_path: Path) -> None:
    assert main([str(archive), "warm/easy", "--to", str(tmp_path / "tasks")]) == 0
    rows: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "tasks/bb_warm_easy.jsonl").open()]
    assert rows == [
        {"input": "Which is warmer?", "choices": ["ice", "tea"], "answer": 1},
        {"input": "Which is largest?", "choices": ["a mouse", "a cat", "a whale"], "answer": 2},
    ]


def test_the_harness_reads_what_is_written(main, archive: Path, tmp_path: Path, monkeypatch) -> None:
    tasks = pytest.importorskip("lm_eval.tasks")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert main([str(archive), "warm/easy", "--to", str(tmp_path / "tasks")]) == 0
    manager = tasks.TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    task = manager.load(["bb_warm_easy"])["tasks"]["bb_warm_easy"]
    documents = list(task.test_docs())
    assert [task.doc_to_text(document) for document in documents] == ["Which is warmer?", "Which is largest?"]
    assert [task.doc_to_target(document) for document in documents] == [1, 2]


def test_an_unknown_task_and_one_without_choices_are_refused(main, archive: Path, tmp_path: Path, capsys) -> None:
    assert main([str(archive), "nowhere", "--to", str(tmp_path / "tasks")]) == 2
    assert "no task nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="free: no example has target_scores"):
        main([str(archive), "free", "--to", str(tmp_path / "tasks")])
