"""Sweeps on this machine survive everything, and nothing runs twice."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter

import pytest

import robustalign
from robustalign.errors import ConfigError
from robustalign.run.folder import RunFolder, State
from robustalign.run.journal import read
from tests.sweeps.shell import kill

SLOW = "+method.pause=0.02"
POOL = "hydra.launcher.workers=3"


def steps(folder) -> list[int]:
    return [r["step"] for r in read(folder.journal) if r["kind"] == "metrics" and "train/loss" in r["values"]]


def test_one_run_leaves_its_files_and_nothing_else(shell):
    done = shell.train("trainer.max_steps=5")
    assert done.returncode == 0, done.stderr
    (folder,) = shell.folders()
    status = folder.status()
    assert (status.state, status.step, status.attempts) == (State.FINISHED, 5, 1)
    assert steps(folder) == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in shell.folder.iterdir()) == ["cache", "outputs"]
    assert sorted(path.name for path in shell.output.iterdir()) == ["runs", "sweeps"]
    assert json.loads(folder.environment.read_text())["packages"]["torch"]
    assert "FINISHED" in done.stdout


def test_a_second_launch_runs_only_what_is_new(shell):
    assert shell.train("trainer.max_steps=5", "-m", "seed=0,1").returncode == 0
    again = shell.train("trainer.max_steps=5", "-m", "seed=0,1,2")
    assert again.returncode == 0
    assert "1 of 3 runs to do" in again.stderr
    assert [folder.status().attempts for folder in shell.folders()] == [1, 1, 1]
    assert (shell.folder / "cache" / "builds.txt").read_text() == "built\n"


def test_failures_are_seen_and_take_no_other_run_along(shell):
    words = ("-m", "seed=0,1", "+method.raise_at=3,0", "trainer.max_steps=5")
    done = shell.train(*words)
    assert done.returncode == 1
    assert sorted(shell.states().values()) == [State.FAILED] * 2 + [State.FINISHED] * 2
    assert "ValueError: asked to raise at step 3" in done.stdout
    failed = [run.folder for run, status in shell.sweep().status() if status.state is State.FAILED]
    assert all("ValueError" in folder.traceback.read_text() for folder in failed)
    assert shell.act("wait") == 1
    assert [folder.status().attempts for folder in failed] == [1, 1]
    assert shell.act("retry", failed[0].name) == 1
    assert [folder.status().attempts for folder in failed] == [2, 1]
    assert shell.train(*words, "sweep.retry=failed").returncode == 1
    assert [folder.status().attempts for folder in failed] == [3, 2]


def test_killed_runs_go_on_from_their_checkpoint_with_the_same_result(shell):
    words = ("-m", "seed=0,1,2", "trainer.max_steps=30", "trainer.save_steps=10")
    assert shell.train(*words, "+method.die_at=25").returncode == 0
    killed = [run.folder for run in shell.sweep().runs]
    assert [folder.status().attempts for folder in killed] == [2, 2, 2]
    assert [folder.status().kills for folder in killed] == [1, 1, 1]
    assert all(steps(folder) == list(range(1, 31)) for folder in killed)
    totals = shell.totals()
    assert shell.train(*words, "+method.die_at=0").returncode == 0
    assert list(shell.totals().values()) == list(totals.values())


def test_a_run_that_always_dies_is_given_up(shell):
    words = ("+method.die_at=2", "+method.die_always=true", "sweep.max_restarts=2", "trainer.max_steps=5")
    done = shell.train(*words)
    assert done.returncode == 1
    (folder,) = shell.folders()
    status = folder.status()
    assert (status.state, status.attempts, status.kills) == (State.KILLED, 3, 3)
    assert "SIGKILL" in done.stdout
    assert shell.train(*words).returncode == 1
    assert folder.status().attempts == 3


def test_ctrl_c_saves_and_the_same_command_goes_on(shell):
    words = ("-m", "seed=0,1,2,3", "trainer.max_steps=100", SLOW, "hydra.launcher.workers=2")
    launcher = shell.start("train.py", "tracking=spool", *words)
    shell.wait_for(State.RUNNING, count=2, step=5)
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert "Traceback" not in err
    assert sorted(shell.states().values()) == [State.PENDING] * 2 + [State.PREEMPTED] * 2
    stopped = [run.folder for run, status in shell.sweep().status() if status.state is State.PREEMPTED]
    assert shell.train(*words).returncode == 0
    assert all(folder.status().attempts == 2 for folder in stopped)
    assert all(steps(run.folder) == list(range(1, 101)) for run in shell.sweep().runs)


def test_the_launcher_may_be_killed(shell):
    words = ("-m", "seed=0,1,2", "trainer.max_steps=100", SLOW, "hydra.launcher.workers=2")
    launcher = shell.start("train.py", "tracking=spool", *words)
    running = shell.wait_for(State.RUNNING, count=2, step=5)
    launcher.kill()
    launcher.communicate()
    assert shell.train(*words).returncode == 0
    assert all(folder.status().kills == 0 for folder in running)
    assert all(steps(run.folder) == list(range(1, 101)) for run in shell.sweep().runs)


def test_two_launches_at_once_run_nothing_twice(shell):
    words = ("tracking=spool", "-m", "seed=0,1,2,3", "trainer.max_steps=40", SLOW, "hydra.launcher.workers=2")
    launches = [shell.start("train.py", *words) for _ in range(2)]
    ends = [launch.communicate(timeout=100) for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0], ends
    assert [folder.status().attempts for folder in shell.folders()] == [1, 1, 1, 1]


def test_every_fault_in_one_sweep(shell, capsys):
    """Runs are killed and preempted at any moment, some raise, some are cancelled, and so is the launcher itself."""
    words = ("tracking=spool", "-m", "seed=0,1,2,3,4,5", "+method.raise_at=0,20", SLOW, POOL)
    words = (*words, "trainer.max_steps=80", "trainer.save_steps=7")
    launcher = shell.start("train.py", *words)
    hit: set[str] = set()

    def pick(step: int) -> RunFolder:
        while True:
            for folder in shell.wait_for(State.RUNNING, step=step):
                if folder.name not in hit and not folder.config().method["raise_at"] and folder.status().step < 60:
                    hit.add(folder.name)
                    return folder

    kill(pick(3))
    os.kill(pick(5).status().pid, signal.SIGTERM)  # as a scheduler would
    launcher.kill()
    launcher.communicate()
    launcher = shell.start("train.py", *words)
    kill(pick(3))
    cancelled = pick(4)
    assert shell.act("cancel", cancelled.name) == 0
    _, err = launcher.communicate(timeout=100)
    assert launcher.returncode == 1, err
    assert cancelled.status().state is State.CANCELLED
    assert shell.act("retry", cancelled.name) == 1

    rows = shell.sweep().status()
    assert Counter(status.state for _, status in rows) == {State.FINISHED: 6, State.FAILED: 6}
    assert all(steps(run.folder) == list(range(1, 81)) for run, status in rows if status.state is State.FINISHED)
    assert capsys.readouterr().out.count("asked to raise at step 20") == 6
    before = {folder.name: folder.status().attempts for folder in shell.folders()}
    assert shell.train(*words[1:], "sweep.retry=failed").returncode == 1
    again = [run.folder.name for run, _ in rows if run.folder.status().attempts > before[run.folder.name]]
    assert sorted(again) == sorted(run.folder.name for run, status in rows if status.state is State.FAILED)


def test_cancel_stops_for_good_until_a_retry(shell):
    words = ("-m", "seed=0,1,2", "trainer.max_steps=200", SLOW, "hydra.launcher.workers=1")
    launcher = shell.start("train.py", "tracking=spool", *words)
    (running,) = shell.wait_for(State.RUNNING, step=2)
    waiting = next(folder for folder in shell.folders() if folder.name != running.name)
    assert shell.act("cancel", running.name, waiting.name) == 0
    shell.wait_for(State.RUNNING, step=2)
    assert shell.act("cancel") == 0
    launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    assert set(shell.states().values()) == {State.CANCELLED}
    assert shell.act("retry", waiting.name) == 1
    assert waiting.status().state is State.FINISHED
    assert running.status().state is State.CANCELLED


def test_status_reaps_what_died_and_wait_starts_it_again(shell, capsys):
    words = ("-m", "seed=0,1", "trainer.max_steps=60", SLOW, "trainer.save_steps=5", "hydra.launcher.workers=2")
    launcher = shell.start("train.py", "tracking=spool", *words)
    running = shell.wait_for(State.RUNNING, count=2, step=12)
    os.kill(launcher.pid, signal.SIGKILL)
    for folder in running:
        kill(folder)
    launcher.communicate()
    assert shell.act("status") == 0
    assert capsys.readouterr().out.count("KILLED") == 2
    assert shell.act("wait") == 0
    assert capsys.readouterr().out.count("FINISHED") == 2
    assert all(steps(folder) == list(range(1, 61)) for folder in running)
    assert shell.act("logs", running[0].name) == 0
    assert str(running[0].log) in capsys.readouterr().err


def test_submit_and_leave(shell):
    wrong = shell.run("sweep.py", "submit", "--no-wait", "seed=0,1", "trainer.max_stepz=10")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert not shell.output.exists()
    words = ("tracking=spool", "seed=0,1", "trainer.max_steps=300", SLOW)
    done = shell.run("sweep.py", "submit", "--no-wait", *words)
    assert done.returncode == 0, done.stderr
    assert shell.sweep().id in done.stdout
    assert len(shell.folders()) == 2
    assert State.FINISHED not in shell.states().values()
    shell.wait_for(State.FINISHED, count=2)


def test_the_same_from_python(shell):
    words = (f"sweep.program={shell.program}", "tracking=spool", "seed=0,1", "+method.raise_at=3,0")
    words += ("trainer.max_steps=5",)
    sweep = robustalign.sweeps.submit(*words, output=shell.output)
    assert sweep.id == robustalign.sweeps.find(shell.output).id == shell.sweep().id
    table = robustalign.sweeps.status(sweep).set_index("run")
    assert sorted(table["state"]) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]
    failed = table[table["state"] == "FAILED"]
    assert set(failed["error"]) == {"ValueError: asked to raise at step 3"}
    assert "asked to raise" in robustalign.sweeps.log(sweep, failed.index[0])
    assert robustalign.sweeps.wait(sweep) == 1
    assert robustalign.sweeps.retry(sweep, failed.index[0]) == 1
    assert sorted(folder.status().attempts for folder in shell.folders()) == [1, 1, 1, 2]
    assert robustalign.sweeps.cancel(sweep) == []
    with pytest.raises(ConfigError, match="nothing was launched"):
        robustalign.sweeps.submit("trainer.max_stepz=1", output=shell.output)


def test_a_dry_run_shows_and_writes_nothing(shell):
    shown = shell.train("sweep.dry_run=true", "-m", "seed=0,1", "hydra.launcher.workers=2")
    assert shown.returncode == 0
    assert "dpo seed=1" in shown.stdout
    assert "local: 2 at once" in shown.stdout
    assert shown.stdout.splitlines()[1].split()[3:] == ["new", "1", "numbers", "<", "655,360"]
    assert not shell.folder.joinpath("outputs").exists()


def test_retry_all_starts_finished_runs_over(shell):
    assert shell.train("trainer.max_steps=5").returncode == 0
    (before,) = [folder.status().uid for folder in shell.folders()]
    assert shell.train("trainer.max_steps=5", "sweep.retry=all").returncode == 0
    (folder,) = shell.folders()
    assert folder.status().uid != before
    assert steps(folder) == [1, 2, 3, 4, 5]


def test_a_changed_conf_does_not_reach_frozen_runs(shell):
    words = ("-m", "seed=0,1", "trainer.max_steps=40", SLOW, "hydra.launcher.workers=1")
    launcher = shell.start("train.py", "tracking=spool", *words)
    (running,) = shell.wait_for(State.RUNNING, step=1)
    waiting = next(folder for folder in shell.folders() if folder.name != running.name)
    assert waiting.config().trainer.max_steps == 40
    launcher.communicate(timeout=60)
    assert steps(waiting) == list(range(1, 41))


def test_a_finished_run_whose_data_changed_is_told_to_be_outdated(shell):
    data = shell.folder / "data.txt"
    data.write_text("old")
    words = ("trainer.max_steps=2", f"+method.watch={data}")
    assert "OUTDATED" not in shell.train(*words).stderr
    data.write_text("new")
    again = shell.train(*words)
    assert (
        again.returncode == 0 and "1 finished runs are OUTDATED: changed since: data; sweep.retry=all" in again.stderr
    )
    assert "OUTDATED" not in shell.train(*words, "sweep.retry=all").stderr
    assert "OUTDATED" not in shell.train(*words).stderr
    (folder,) = (run.folder for run in shell.sweep().runs)
    folder.inputs_file.unlink()  # as a run of an earlier version left it
    data.write_text("newer")
    assert "OUTDATED" not in shell.train(*words).stderr


def test_a_run_that_stopped_before_its_data_changed_starts_anew(shell):
    data = shell.folder / "data.txt"
    data.write_text("old")
    words = ("trainer.max_steps=4", "trainer.save_steps=1", f"+method.watch={data}", "+method.raise_at=3")
    assert shell.train(*words).returncode == 1
    again = shell.train(*words, "sweep.retry=failed")
    (folder,) = (run.folder for run in shell.sweep().runs)
    assert "start anew" not in again.stderr and folder.status().attempts == 2
    data.write_text("new")
    again = shell.train(*words, "sweep.retry=failed")
    assert "1 interrupted runs start anew: changed since: data" in again.stderr and folder.status().attempts == 1
