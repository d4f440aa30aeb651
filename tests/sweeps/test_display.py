"""What a sweep says off a terminal: a line for each change, and one a minute."""

from __future__ import annotations

import signal
import sys
import time

import pytest

from robustalign import progress
from robustalign.run.folder import RunFolder, State
from robustalign.sweeps.display import Progress
from robustalign.sweeps.sweep import Run, Sweep


@pytest.fixture
def sweep(make, tmp_path) -> Sweep:
    runs = []
    for seed in range(5):
        folder = RunFolder(tmp_path / "runs" / f"r{seed}")
        folder.freeze(make(f"seed={seed}", "trainer.max_steps=10"))
        runs.append(Run(folder, f"dpo seed={seed}"))
    return Sweep(output=tmp_path, runs=runs, varying=["seed"], tracking=make().tracking)


def test_a_line_a_minute_names_what_is_at_work(sweep, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    shown = Progress(sweep)
    sweep.runs[0].folder.set_status(State.FINISHED)
    for run in sweep.runs[1:]:
        run.folder.set_status(State.RUNNING, step=5)
    shown.update(now=True)
    lines = capsys.readouterr().err.splitlines()
    assert "[1/5] dpo seed=0: FINISHED" in lines and len(lines) == 5
    monkeypatch.setattr(progress, "EVERY", 0.0)
    shown.update(now=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert "sweep: 3 of 5 runs" in line
    assert line.endswith("dpo seed=1: step 5/10, dpo seed=2: step 5/10, dpo seed=3: step 5/10 and 1 more")


def test_ctrl_c_twice_is_no_fault_of_the_runs(shell):
    words = (
        "-m",
        "seed=0,1",
        "trainer.max_steps=3",
        "+method.pause=30",
        "+method.show=HOME",
        "hydra.launcher.workers=2",
    )
    launcher = shell.start("train.py", "tracking=spool", *words)
    running = shell.wait_for(State.RUNNING, count=2)
    while not all("HOME=" in folder.log.read_text() for folder in running):  # both are in the middle of a step
        time.sleep(0.05)
    for _ in range(2):
        launcher.send_signal(signal.SIGINT)
        time.sleep(0.5)
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 130, err
    assert "the same command goes on from here" in err.splitlines()[-1]
    assert "killed by" not in out + err
    statuses = [run.folder.status() for run in shell.sweep().runs]
    assert [(status.state, status.kills, status.error) for status in statuses] == [(State.PREEMPTED, 0, None)] * 2
