"""A sweep on a real cluster on which everything goes wrong."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from robustalign.run.folder import RunFolder, State
from robustalign.run.journal import read
from robustalign.tracking.read import runs_table
from tests.conftest import SMALL
from tests.sweeps.shell import Shell, job_of, kill
from tests.sweeps.slurm.cluster import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

SLURM = ("hydra/launcher=slurm", "hydra.launcher.poll_seconds=1")


def steps(folder: RunFolder) -> list[int]:
    return [r["step"] for r in read(folder.journal) if r["kind"] == "metrics" and "train/loss" in r["values"]]


def wait_until(true, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.1)


def pick(shell: Shell, hit: set[str], step: int = 2) -> RunFolder:
    """A running run that nothing happened to yet, and that is not about to end."""
    while True:
        running = [folder for folder in shell.wait_for(State.RUNNING, step=step) if folder.name not in hit]
        running = [folder for folder in running if folder.status().step < 30 and folder.runner() is not None]
        if running:
            chosen = random.choice(running)
            hit.add(chosen.name)
            return chosen
        time.sleep(0.1)


def kill_job(folder: RunFolder) -> None:
    """Kill a run together with the process that started it."""
    pid = folder.status().pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for number in (parent, pid):
        os.kill(number, signal.SIGKILL)


def node_of(cluster: Cluster, folder: RunFolder) -> str:
    return cluster.command("squeue", "-h", "-o", "%N", "-j", job_of(folder)).strip()


def preempt(cluster: Cluster) -> None:
    """A job of a partition that comes first takes the whole cluster for a moment."""
    everything = str(len(cluster.nodes) * cluster.cpus)
    cluster.command("sbatch", "-p", "high", "-n", everything, "-o", "/dev/null", "--wrap", "sleep 1")


def cancel(shell: Shell, cluster: Cluster, hit: set[str]) -> RunFolder:
    """Cancel a running run by SLURM's own command; another one if it was too quick for that."""
    while True:
        folder = pick(shell, hit)
        cluster.command("scancel", job_of(folder))
        wait_until(lambda folder=folder: folder.status().state.ended)
        if folder.status().state is State.CANCELLED:
            return folder


def test_sixty_runs_and_every_fault(shell: Shell, cluster: Cluster):
    words = ("-m", f"seed={','.join(map(str, range(60)))}", "trainer.max_steps=60", "trainer.save_steps=10")
    words += ("+method.pause=0.1", "+method.raise_seeds=[3,14,25,36,47]", "hydra.launcher.max_parallel=7", *SLURM)
    launcher = shell.start("train.py", *words)
    shell.wait_for(State.RUNNING, count=5, step=2)
    hit = {folder.name for folder in shell.folders() if folder.config().seed in (3, 14, 25, 36, 47)}
    for _ in range(5):
        kill(pick(shell, hit))
    kill_job(pick(shell, hit))
    lost = node_of(cluster, pick(shell, hit))
    cluster.lose(lost)
    for _ in range(2):
        cluster.command("scontrol", "requeue", job_of(pick(shell, hit)))
    cluster.restart("slurmctld")
    wait_until(lambda: "is UP" in cluster.command("scontrol", "ping"))
    cancelled = [cancel(shell, cluster, hit) for _ in range(2)]
    cluster.restart(lost)
    wait_until(lambda: "down" not in cluster.command("sinfo", "-h", "-N", "-o", "%T"))
    shell.wait_for(State.RUNNING, count=4, step=2)
    preempt(cluster)
    out, err = launcher.communicate(timeout=400)
    assert launcher.returncode == 1, err

    assert [folder.status().state for folder in cancelled] == [State.CANCELLED] * 2
    again = [folder for folder in shell.folders() if folder.status().attempts > 1]
    assert len(again) >= 10, "each of these was killed, lost its node, was requeued or preempted"
    assert shell.run("sweep.py", "retry", *(folder.name for folder in cancelled)).returncode == 1
    assert Counter(shell.states().values()) == {State.FINISHED: 55, State.FAILED: 5}
    finished = [run.folder for run, status in shell.sweep().status() if status.state is State.FINISHED]
    assert all(steps(folder) == list(range(1, 61)) for folder in finished)
    failed = [status.error for _, status in shell.sweep().status() if status.state is State.FAILED]
    assert failed == ["ValueError: asked to raise at step 5"] * 5
    assert out.count("asked to raise") == 5

    table = runs_table(shell.sweep().mlruns, "robustalign")
    assert Counter(table["status"]) == {"FINISHED": 55, "FAILED": 5}
    assert table["tags.robustalign.identity"].is_unique
    assert table["metrics.eval/final"].notna().sum() == 55

    before = {folder.name: folder.status().attempts for folder in shell.folders()}
    again = shell.run("train.py", *words, "sweep.retry=failed")
    assert again.returncode == 1
    more = [folder for folder in shell.folders() if folder.status().attempts > before[folder.name]]
    assert sorted(folder.config().seed for folder in more) == [3, 14, 25, 36, 47]


def test_a_run_longer_than_its_time_limit_goes_on_in_the_same_job(shell: Shell):
    """SLURM counts limits in minutes and signals up to one early: the job stops itself and comes back."""
    words = ("tracking=spool", "trainer.max_steps=300", "+method.pause=0.15", "hydra.launcher.time=1")
    done = shell.run("train.py", *words, *SLURM, "hydra.launcher.signal_seconds=20")
    assert done.returncode == 0, done.stderr
    (folder,) = shell.folders()
    status = folder.status()
    assert status.attempts > 1
    assert int(status.slurm["restarts"]) == status.attempts - 1
    assert status.kills == 0
    assert steps(folder) == list(range(1, 301))


def test_leave_and_look_from_another_shell(shell: Shell):
    words = ("tracking=spool", "trainer.max_steps=30", "+method.pause=0.1", *SLURM, "hydra.launcher.runs_per_job=2")
    done = shell.run("sweep.py", "submit", "--no-wait", "seed=0,1,2", *words)
    assert done.returncode == 0, done.stderr
    assert len({job_of(folder) for folder in shell.folders()}) == 2
    twice = shell.run("sweep.py", "submit", "--no-wait", "seed=0,1,2", *words)
    assert "runs in" not in twice.stderr
    assert shell.run("sweep.py", "status").returncode == 0
    assert shell.run("sweep.py", "wait").returncode == 0
    assert set(shell.states().values()) == {State.FINISHED}
    assert [folder.status().attempts for folder in shell.folders()] == [1, 1, 1]


def test_cancel_takes_waiting_and_running_runs(shell: Shell, cluster: Cluster):
    words = ("tracking=spool", "trainer.max_steps=300", "+method.pause=0.1", *SLURM, "hydra.launcher.max_parallel=1")
    assert shell.run("sweep.py", "submit", "--no-wait", "seed=0,1", *words).returncode == 0
    shell.wait_for(State.RUNNING, step=3)
    assert shell.run("sweep.py", "cancel").returncode == 0
    wait_until(lambda: set(shell.states().values()) == {State.CANCELLED})
    wait_until(lambda: not cluster.command("squeue", "-h", "-t", "pending,running").strip())


def test_what_sbatch_refuses_is_one_line(shell: Shell):
    done = shell.run("train.py", "tracking=spool", *SLURM, "hydra.launcher.partition=nowhere")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "partition" in done.stderr


def submitted(shell: Shell) -> int:
    """The jobs that a failing setup line counted."""
    file = shell.folder / "count"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_jobs_that_die_before_their_run_are_counted_and_the_log_says_why(shell: Shell):
    setup = f"hydra.launcher.setup=['echo x >> {shell.folder}/count','echo no such module: torch/9 >&2','exit 3']"
    done = shell.run("train.py", "tracking=spool", "sweep.max_restarts=1", setup, *SLURM)
    assert done.returncode == 1, done.stderr
    assert submitted(shell) == 2
    assert "no such module: torch/9" in done.stdout
    (folder,) = shell.folders()
    assert (folder.status().state, folder.status().attempts) == (State.FAILED, 0)
    again = shell.run("train.py", "tracking=spool", "sweep.max_restarts=1", setup, *SLURM, "sweep.retry=failed")
    assert again.returncode == 1
    assert submitted(shell) == 4


@pytest.mark.parametrize(
    "env", [{"SBATCH_EXPORT": "NONE"}, {"SLURM_MEM_PER_NODE": "100", "SLURM_MEM_PER_CPU": "50", "SLURM_NTASKS": "7"}]
)
def test_the_environment_of_a_job_or_a_site_does_no_harm(shell: Shell, env):
    words = ("tracking=spool", "trainer.max_steps=3", "sweep.max_restarts=0", "hydra.launcher.mem=100M")
    setup = f"hydra.launcher.setup=['export PYTHONPATH={shell.env['PYTHONPATH']}']"
    done = shell.run("train.py", *words, *SLURM, setup, **env)
    assert done.returncode == 0, done.stderr


def test_a_percent_sign_in_the_output_is_refused(shell: Shell):
    done = shell.run("train.py", "tracking=spool", *SLURM, "paths.output='50%'")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "paths.output" in done.stderr
    assert not (shell.folder / "50%").exists()


def test_no_slurm_is_one_line(shell: Shell):
    done = shell.run("train.py", "tracking=spool", *SLURM, PATH="/nowhere")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "SLURM takes no job" in done.stderr


def test_a_dry_run_shows_the_head_of_the_batch_script(shell: Shell):
    ranks = ("trainer.micro_batch_size=32",)
    keys = ("partition=main", "account=me", "time=1-00:00:00", "gpus=2", "setup=['module load cuda']")
    shown = shell.run("train.py", "sweep.dry_run=true", *ranks, *SLURM, *(f"hydra.launcher.{key}" for key in keys))
    assert shown.returncode == 0, shown.stderr
    for line in ("--partition=main", "--account=me", "--time=1440", "--gpus-per-node=2", "module load cuda"):
        assert line in shown.stdout
    assert not shell.output.exists()


REAL = (*SMALL, "evaluation.generate=never", "trainer.max_steps=400", "trainer.save_model=true", "trainer.threads=1")


def test_a_requeued_run_ends_bit_for_bit_as_an_undisturbed_one(shell: Shell, cluster: Cluster):
    """The real stages: requeued by hand, then preempted by another partition, while it trains."""
    shell.program = None

    def start(output: str) -> subprocess.Popen[str]:
        shell.output = shell.folder / output
        return shell.start("train.py", "tracking=spool", *REAL, f"paths.output={output}", *SLURM)

    def end(launcher: subprocess.Popen[str]) -> RunFolder:
        _, err = launcher.communicate(timeout=200)
        assert launcher.returncode == 0, err
        (folder,) = shell.folders()
        return folder

    launcher = start("broken")
    (folder,) = shell.wait_for(State.RUNNING, step=20)
    cluster.command("scontrol", "requeue", job_of(folder))
    wait_until(lambda: folder.status().attempts == 2 and folder.status().state is State.RUNNING)
    at = folder.status().step
    shell.wait_for(State.RUNNING, step=at + 20)
    preempt(cluster)
    broken, whole = end(launcher), end(start("whole"))
    assert (broken.status().attempts, broken.status().kills, whole.status().attempts) == (3, 0, 1)
    assert steps(broken) == steps(whole) == list(range(1, 401))
    for name in ("model/model.safetensors", "results/targets.csv"):
        assert (broken.path / name).read_bytes() == (whole.path / name).read_bytes(), name
