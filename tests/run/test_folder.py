"""What a run's folder remembers."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import pytest

from robustalign.errors import ConfigError
from robustalign.run.folder import RunFolder, State, Status


def test_a_new_folder_is_pending_and_keeps_its_uid(make, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.freeze(make())
    uid = folder.status().uid
    folder.freeze(make())
    folder.set_status(State.RUNNING, pid=5, slurm={"job": "1_2"})
    status = RunFolder(tmp_path / "run").status()
    assert (status.state, status.uid, status.pid, status.slurm) == (State.RUNNING, uid, 5, {"job": "1_2"})


def test_the_step_is_in_the_next_status_at_the_latest(make, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.freeze(make())
    for step in range(100):
        folder.set_status(step=step)
    folder.set_status(State.FINISHED)
    assert folder.status().step == 99


def test_a_status_from_a_newer_version_is_read(make, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.freeze(make())
    file = folder.path / "status.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "unheard_of": 1}))
    assert folder.status().state is State.PENDING


def read_often(path, seen) -> None:
    folder = RunFolder(path)
    for _ in range(300):
        status = folder.status()
        seen.put(status.step == status.attempts)


def test_readers_never_see_half_a_status(make, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.freeze(make())
    fork = multiprocessing.get_context("fork")
    seen = fork.SimpleQueue()
    reader = fork.Process(target=read_often, args=(folder.path, seen))
    reader.start()
    for number in range(300):
        folder.set_status(State.RUNNING, step=number, attempts=number)
    whole = [seen.get() for _ in range(300)]
    reader.join()
    assert all(whole)
    assert sorted(os.listdir(folder.path)) == ["config.yaml", "status.json"]


def test_reopening_forgets_the_failure_and_nothing_else(make, tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.freeze(make())
    folder.ask_cancel()
    folder.set_status(State.FAILED, error="ValueError: no", attempts=2, step=7, kills=4)
    folder.reopen()
    status = folder.status()
    assert (status.state, status.error, status.kills) == (State.PENDING, None, 0)
    assert (status.attempts, status.step) == (2, 7)
    assert not folder.cancel_asked()


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="not a run"):
        RunFolder(tmp_path).config()
    assert RunFolder(tmp_path).status().state is Status().state


def test_the_status_of_a_run_that_ended_is_read_once_and_again_when_it_goes_on(make, tmp_path, monkeypatch):
    folder, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    folder.freeze(make())
    read = []
    text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **k: read.append(path) or text(path, *a, **k))
    other.set_status(State.FAILED, error="ValueError: no", slurm={"job": "1"})
    read.clear()
    first = folder.status()
    first.slurm["job"], first.error = "changed", "changed"
    assert [folder.status().error for _ in range(5)] == ["ValueError: no"] * 5
    assert folder.status().slurm == {"job": "1"}
    assert len(read) == 1
    other.reopen()
    assert folder.status().state is State.PENDING
    other.set_status(State.RUNNING, step=3)
    assert folder.status().step == 3
