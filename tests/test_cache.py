"""Artefacts are built once whatever dies, and locks have one owner at a time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from robustalign.cache import ArtefactCache, digest
from robustalign.locks import Lock, Owner, start_time

fork = multiprocessing.get_context("fork")


def processes(count: int, target, *args) -> list:
    started = [fork.Process(target=target, args=(number, *args)) for number in range(count)]
    for process in started:
        process.start()
    return started


def dead_owner() -> Owner:
    """An owner on this machine whose process is gone."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return replace(Owner.me(), pid=done.pid, started=1, token="gone")


def write(path: Path, owner: Owner, age: float = 0.0) -> None:
    path.write_text(json.dumps(asdict(owner)))
    os.utime(path, (time.time() - age,) * 2)


def build_slowly(number: int, root: Path) -> None:
    def build(folder: Path) -> None:
        time.sleep(0.1)
        (folder / "data").write_text("whole")
        with open(root / "builds", "a") as file:
            file.write(f"{number}\n")

    path = ArtefactCache(root).get("stage", {"a": 1}, build)
    assert (path / "data").read_text() == "whole"


def test_processes_that_ask_at_once_build_once(tmp_path):
    started = processes(16, build_slowly, tmp_path)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 16
    assert len((tmp_path / "builds").read_text().splitlines()) == 1
    names = [path.name for path in (tmp_path / "stage").iterdir()]
    assert names == [digest({"a": 1})]


def test_the_address_depends_on_content_not_on_order():
    assert digest({"a": 1, "b": [1.0, "x"]}) == digest({"b": [1.0, "x"], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 20


def test_events_tell_what_was_built_and_what_a_reuse_saved(tmp_path):
    cache = ArtefactCache(tmp_path)
    for _ in range(2):
        cache.get("stage", {"a": 1}, lambda folder: time.sleep(0.02))
    built, reused = cache.events
    assert not built.reused
    assert reused.reused
    assert built.path == reused.path
    assert reused.seconds == pytest.approx(built.seconds, abs=1e-3)
    assert json.loads((built.path / "key.json").read_text())["key"] == {"a": 1}


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise ValueError("no")

    cache = ArtefactCache(tmp_path)
    with pytest.raises(ValueError, match="no"):
        cache.get("stage", {}, fail)
    assert list((tmp_path / "stage").iterdir()) == []
    assert not cache.events
    assert cache.get("stage", {}, lambda folder: None).is_dir()


def build_for_ever(number: int, root: Path) -> None:
    def build(folder: Path) -> None:
        (folder / "half").touch()
        (root / "started").touch()
        time.sleep(60)

    ArtefactCache(root).get("stage", {}, build)


def test_others_wait_with_a_message_and_take_over_when_the_builder_dies(tmp_path, capfd):
    (builder,) = processes(1, build_for_ever, tmp_path)
    while not (tmp_path / "started").exists():
        time.sleep(0.01)
    (waiter,) = processes(1, lambda number: ArtefactCache(tmp_path).get("stage", {}, lambda folder: None))
    message = ""
    while "waiting for stage" not in message:
        time.sleep(0.01)
        message += capfd.readouterr().err
    assert str(builder.pid) in message
    os.kill(builder.pid, signal.SIGKILL)
    waiter.join()
    assert waiter.exitcode == 0
    assert sorted(path.name for path in (tmp_path / "stage" / digest({})).iterdir()) == ["key.json"]
    assert len(list((tmp_path / "stage").iterdir())) == 1


def enter_and_leave(number: int, folder: Path) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for turn in range(15):
        lock = Lock(folder / "lock")
        lock.acquire()
        os.write(log, f"enter {number}\n".encode())
        time.sleep(0.001)
        if turn == 10 and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(log, f"leave {number}\n".encode())
        lock.release()


def test_one_owner_at_a_time_though_owners_die(tmp_path):
    started = processes(6, enter_and_leave, tmp_path)
    for process in started:
        process.join()
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    inside = None
    for word, number in lines:
        if word == "leave":
            assert number == inside
        elif inside is not None:
            assert int(inside) % 2, "entered while a living owner was inside"
        inside = number if word == "enter" else None
    assert sum(word == "leave" for word, _ in lines) == 3 * 15 + 3 * 10
    with Lock(tmp_path / "lock"):  # perhaps after the last one that died
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_dead_owners_lock_is_taken_over_at_once(tmp_path):
    write(tmp_path / "lock", dead_owner())
    lock = Lock(tmp_path / "lock")
    assert lock.owner() is None
    assert lock.acquire(blocking=False)
    assert Lock(tmp_path / "lock").owner().pid == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("age", "free"), [(5.0, False), (300.0, True)])
def test_an_owner_on_another_machine_is_dead_when_its_signs_of_life_are_old(tmp_path, age, free):
    write(tmp_path / "lock", replace(Owner.me(), machine="elsewhere", token="far"), age)
    lock = Lock(tmp_path / "lock", expiry=60)
    assert (lock.owner() is None) is free
    assert lock.acquire(blocking=False) is free


def test_an_owner_gives_signs_of_life(tmp_path):
    lock = Lock(tmp_path / "lock", heartbeat=0.02)
    with lock:
        os.utime(tmp_path / "lock", (0, 0))
        while (tmp_path / "lock").stat().st_mtime == 0:
            time.sleep(0.01)


def test_a_lock_is_refused_while_its_owner_lives(tmp_path):
    with Lock(tmp_path / "lock"):
        assert not Lock(tmp_path / "lock").acquire(blocking=False)
        assert not Lock(tmp_path / "lock").acquire(timeout=0.1)
    assert Lock(tmp_path / "lock").acquire(blocking=False)


def test_a_forked_child_gives_back_nothing(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert Lock(tmp_path / "lock").owner().pid == os.getpid()


def test_an_owner_that_was_thought_dead_does_not_release_its_heirs_lock(tmp_path):
    slow = Lock(tmp_path / "lock")
    slow.acquire()
    heir = replace(Owner.me(), machine="elsewhere", token="heir")
    write(tmp_path / f"lock.{slow._me.token}", heir)
    slow.release()
    assert Lock(tmp_path / "lock").owner().token == "heir"


def test_a_zombie_is_dead():
    child = os.fork()
    if not child:
        os._exit(0)
    while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert start_time(child) is None
    os.waitpid(child, 0)
