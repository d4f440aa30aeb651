"""Commands as users type them, with a program that takes milliseconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robustalign.cli.sweep import main as sweep_main
from robustalign.cli.sync import main as track_main
from robustalign.run.folder import RunFolder, State
from robustalign.sweeps.sweep import Sweep, find

ROOT = Path(__file__).resolve().parents[2]


class Shell:
    """A shell in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "outputs"
        self.program: str | None = "tests.run.toy_program"
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, script: str, *words: str, **env: str) -> subprocess.Popen[str]:
        """A command in the background."""
        launches = script == "train.py" or words[:1] == ("submit",)
        program = [f"sweep.program={self.program}"] if self.program and launches else []
        command = [sys.executable, str(ROOT / "scripts" / script), *words, *program]
        return subprocess.Popen(
            command, cwd=self.folder, env={**self.env, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        process = self.start(script, *words, **env)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def train(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A sweep whose journals stay where they are."""
        return self.run("train.py", "tracking=spool", *words)

    def act(self, *words: str) -> int:
        """``sweep.py`` or ``track.py sync`` in this process, which saves the imports."""
        if words[0] == "sync":
            return track_main([*words[1:], "--output", str(self.output)])
        return sweep_main([*words, "--output", str(self.output)])

    def sweep(self) -> Sweep:
        """The last one launched."""
        return find(self.output)

    def states(self) -> dict[str, State]:
        """What became of each run, by name."""
        return {run.name: status.state for run, status in self.sweep().status()}

    def totals(self) -> dict[str, float]:
        """The final result of each finished run."""
        runs = [run for run, status in self.sweep().status() if status.state is State.FINISHED]
        return {run.name: json.loads((run.folder.results / "final.json").read_text())["total"] for run in runs}

    def folders(self) -> list[RunFolder]:
        """Of all runs so far."""
        return [RunFolder(file.parent) for file in sorted(self.output.glob("runs/*/config.yaml"))]

    def wait_for(self, state: State, count: int = 1, step: int = 0) -> list[RunFolder]:
        """Until so many runs are in a state and at a step; these."""
        while True:
            found = [f for f in self.folders() if f.status().state is state and f.status().step >= step]
            if len(found) >= count:
                return found
            time.sleep(0.02)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    made = Shell(tmp_path)
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, made.env[name])
    return made


def job_of(folder: RunFolder) -> str:
    """The id of a run's job."""
    job = folder.job()
    assert job is not None
    return job.job


def kill(folder: RunFolder) -> None:
    """Kill a run's process as the kernel does when memory ends."""
    pid = folder.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
