"""One run on several nodes of a real cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from robustalign.run.folder import RunFolder, State
from tests.conftest import SMALL
from tests.pipeline.test_run import metrics
from tests.sweeps.shell import Shell, job_of
from tests.sweeps.slurm.cluster import Cluster, descendants

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

RUN = (*SMALL, "tracking=spool", "evaluation.generate=never", "trainer.save_model=true", "trainer.micro_batch_size=4")
NODES = ("hydra/launcher=slurm", "hydra.launcher.poll_seconds=1", "hydra.launcher.nodes=2")


@pytest.fixture
def real(shell: Shell) -> Shell:
    """A shell whose runs compute."""
    shell.program = None
    return shell


def policies(one: RunFolder, two: RunFolder):
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    return [(ours[name], theirs[name]) for name in ours]


def newest(shell: Shell) -> RunFolder:
    return max(shell.folders(), key=lambda folder: folder.config_file.stat().st_mtime)


def run(shell: Shell, *words: str) -> RunFolder:
    done = shell.run("train.py", *RUN, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return newest(shell)


def test_two_tasks_have_the_gradients_of_one_process(real: Shell):
    here = run(real, "method=kldpo", "label=here")
    real.output = real.folder / "there"
    there = run(real, "method=kldpo", "label=there", f"paths.output={real.output}", *NODES)
    assert here.path != there.path
    found, wanted = metrics(there), metrics(here)
    assert found.keys() == wanted.keys()
    gradients = [key for key in wanted if key[1] == "train/grad_norm"]
    assert len(gradients) == 4
    for key in gradients:
        assert found[key] == pytest.approx(wanted[key], rel=1e-6)
    for ours, theirs in policies(here, there):
        assert (ours - theirs).norm() <= 1e-6 * ours.norm()


def test_a_rank_lost_on_another_node_and_a_requeue_cost_nothing(real: Shell, cluster: Cluster):
    words = ("method=wdpo", "trainer.max_steps=60", "trainer.save_steps=10")
    whole = run(real, *words, "label=whole", "trainer.nproc=2")
    real.output = real.folder / "there"
    sent = real.run("sweep.py", "submit", "--no-wait", *RUN, *words, f"paths.output={real.output}", *NODES)
    assert sent.returncode == 0, sent.stderr
    folder = newest(real)
    at_step(folder, 12)
    (second,) = ranks(folder, 1)
    os.kill(second, signal.SIGKILL)
    until(lambda: folder.status().attempts == 2)
    assert folder.status().kills == 1
    assert "rank 1 was killed by SIGKILL" in folder.log.read_text()
    at_step(folder, 25)
    cluster.order("scontrol", "requeue", job_of(folder))
    waiting = real.start("sweep.py", "wait", "--output", str(real.output))
    assert waiting.wait(300) == 0
    status = folder.status()
    assert (status.state, status.attempts, status.kills) == (State.FINISHED, 3, 1)
    assert metrics(folder) == metrics(whole)
    assert all(bool((ours == theirs).all()) for ours, theirs in policies(whole, folder))


def ranks(folder: RunFolder, node: int) -> list[int]:
    """The processes that compute on a node of a run's job: forked by its worker, they have its command line."""
    wanted = {str(folder.path).encode(), f"--node={node}".encode()}
    workers = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if wanted <= words_of(entry)]
    return [pid for pid in workers if not descendants(pid)]


def words_of(process: Path) -> set[bytes]:
    try:
        return set((process / "cmdline").read_bytes().split(b"\0"))
    except OSError:
        return set()


def at_step(folder: RunFolder, step: int) -> None:
    until(lambda: folder.status().state is State.RUNNING and folder.status().step >= step)


def until(true, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.05)
