"""Runs of two ranks: the same numbers as one process, one writer, and an end in common whatever happens to one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import load_from_disk
from safetensors.torch import load_file

from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.pipeline.checks import check_config
from robustalign.run.folder import RunFolder, State
from robustalign.run.rank_processes import RankKilled, Team, _watch
from robustalign.run.worker import EXIT
from robustalign.sweeps.backends.local import LocalPool
from robustalign.sweeps.backends.slurm import SlurmArray
from robustalign.sweeps.fork_client import Child, NurseryClient
from tests.conftest import SMALL, compose_config
from tests.pipeline.test_run import metrics
from tests.sweeps.slurm.cluster import descendants

ROOT = Path(__file__).resolve().parents[2]
ENV = {"PYTHONPATH": str(ROOT)}
TOYS = "sweep.program=tests.run.toy_ranks"
FAST = ("evaluation.generate=never", "trainer.save_model=true", "trainer.micro_batch_size=4")
LONG = (*FAST, "method=wdpo", "trainer.max_steps=40", "trainer.save_steps=10", "trainer.nproc=2")


@pytest.fixture(scope="module")
def client() -> Iterator[NurseryClient]:
    with contextlib.closing(NurseryClient(environment=ENV)) as made:
        yield made


@pytest.fixture(scope="module")
def whole(client: NurseryClient, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> RunFolder:
    """A run of two ranks that nobody disturbs."""
    places = (f"paths.output={tmp_path_factory.mktemp('whole')}", f"paths.cache={shared_cache}")
    return run(client, compose_config(*SMALL, *places, *LONG), "whole")


@pytest.fixture(scope="module")
def toys() -> Iterator[NurseryClient]:
    """Starts runs in which nothing is computed."""
    with contextlib.closing(NurseryClient("tests.run.toy_ranks", ENV)) as made:
        yield made


def start(client: NurseryClient, config: Config, name: str) -> tuple[RunFolder, Child]:
    folder = RunFolder(Path(config.paths.output) / name)
    folder.freeze(config)
    return folder, client.run(folder.path, folder.log, {})


def run(client: NurseryClient, config: Config, name: str) -> RunFolder:
    folder, child = start(client, config, name)
    assert child.done.wait(120)
    assert child.code == 0, folder.log.read_text()
    return folder


def at_step(folder: RunFolder, step: int, child: Child) -> list[int]:
    """Wait until a run is there; the process ids of its ranks."""
    while folder.status().step < step:
        assert not child.done.is_set(), folder.log.read_text()
        time.sleep(0.02)
    return descendants(int(folder.status().pid or 0))


def same_policy(one: RunFolder, two: RunFolder) -> bool:
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (one, two))
    return all(bool((ours[name] == theirs[name]).all()) for name in ours)


@pytest.mark.parametrize(("method", "parallel"), [("wdpo", "ddp"), ("logits_sam", "ddp"), ("kldpo", "fsdp")])
def test_two_ranks_train_the_policy_of_one(client: NurseryClient, small: Callable, method: str, parallel: str) -> None:
    words = (f"method={method}", *FAST, "evaluation.steps=[0,2]")
    one, two = (
        run(client, small(*words, f"trainer.nproc={n}", f"trainer.parallel={parallel}"), f"{n}") for n in (1, 2)
    )
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (one, two))
    for name in ours:
        assert (ours[name] - theirs[name]).norm() <= 1e-6 * ours[name].norm()
    found, wanted = metrics(two), metrics(one)
    assert found.keys() == wanted.keys(), "each metric once a step, as if there was one process"
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    assert (two.status().state, two.status().step, two.status().attempts) == (State.FINISHED, 4, 1)


def test_ranks_sample_the_candidates_in_shares(client: NurseryClient, small: Callable, tmp_path: Path) -> None:
    """In an empty cache two ranks draw what one process draws, and leave no share behind."""
    words = (*FAST, "dataset.sampling.batch_size=16", "trainer.max_steps=1")
    tables = []
    for n in (1, 2):
        cache = tmp_path / f"cache_{n}"
        run(client, small(*words, f"trainer.nproc={n}", f"paths.cache={cache}"), f"shares_{n}")
        tables.append({part.name: load_from_disk(part).to_dict() for part in cache.glob("candidates/*/")})
        assert not list(cache.glob("candidates/*unfinished*"))
    assert tables[0] == tables[1] != {}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_stop_of_one_rank_stops_both_at_the_same_step(
    client: NurseryClient, small: Callable, whole: RunFolder, parallel: str
) -> None:
    config = small(*LONG, f"trainer.parallel={parallel}")
    if parallel == "fsdp":
        whole = run(client, config, "whole")
    folder, child = start(client, config, "stopped")
    first, second = at_step(folder, 5, child)
    os.kill(second, signal.SIGUSR1)
    assert child.done.wait(30)
    assert child.code == EXIT[State.PREEMPTED], folder.log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in (first, second))
    assert folder.status().state is State.PREEMPTED
    run(client, config, "stopped")
    assert metrics(folder) == metrics(whole)
    assert same_policy(folder, whole)


@pytest.mark.parametrize("victim", [0, 1, None], ids=["rank 0", "rank 1", "the worker"])
def test_a_killed_rank_ends_the_run_at_once(
    client: NurseryClient, small: Callable, whole: RunFolder, victim: int | None
) -> None:
    folder, child = start(client, config := small(*LONG), "killed")
    pids = at_step(folder, 12, child)
    began = time.monotonic()
    os.kill(pids[victim] if victim is not None else int(folder.status().pid or 0), signal.SIGKILL)
    assert child.done.wait(30)
    assert time.monotonic() - began < 20, "no hang"
    time.sleep(0.1)
    assert not any(running(pid) for pid in pids)
    if victim is None:
        assert child.code == -signal.SIGKILL
    else:
        status = folder.status()
        assert child.code == EXIT[State.KILLED]
        assert (status.state, status.kills) == (State.KILLED, 1)
        assert status.error == f"rank {victim} was killed by SIGKILL"
    run(client, config, "killed")
    assert same_policy(folder, whole)
    assert metrics(folder) == metrics(whole)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_is_the_error_of_the_run(toys: NurseryClient, small: Callable, rank: int) -> None:
    folder, child = start(
        toys, small(TOYS, "trainer.nproc=2", "trainer.micro_batch_size=4", f"+method.raise_rank={rank}"), "raises"
    )
    assert child.done.wait(30)
    status = folder.status()
    assert (child.code, status.state) == (EXIT[State.FAILED], State.FAILED), folder.log.read_text()
    assert status.error == f"rank {rank}: ValueError: it is odd"
    assert "ValueError: it is\nodd" in folder.traceback.read_text()
    assert "toy_ranks.py" in folder.traceback.read_text()


def test_what_the_user_has_to_change_is_told_as_ever(toys: NurseryClient, small: Callable) -> None:
    words = (TOYS, "trainer.nproc=2", "trainer.micro_batch_size=4", "+method.raise_rank=1", "+method.config=true")
    folder, child = start(toys, small(*words), "refused")
    assert child.done.wait(30)
    assert folder.status().error == "ConfigError: method.radius: is odd"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.nproc=3",), r"trainer\.micro_batch_size: 8 times 3 ranks does not divide trainer\.batch_size=8"),
        (("trainer.nproc=0",), r"trainer\.nproc: 0 is below 1"),
        (
            ("trainer.parallel=fsdp", "method=wdpo", "method.gradient=exact"),
            r"method\.gradient: exact .* fsdp .* trainer\.parallel=ddp",
        ),
        (("trainer.parallel=zero3",), r"trainer\.parallel: unknown value 'zero3'; choose one of: ddp, fsdp"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_refused_before_anything_starts(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(compose_config("trainer.batch_size=8", "trainer.micro_batch_size=8", *overrides))


def test_each_process_of_a_run_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    words = ("trainer.device=cuda", "trainer.micro_batch_size=8")
    two, eight = (compose_config(*words, f"trainer.nproc={n}") for n in (2, 8))
    assert LocalPool().slots([two]) == (2, ["0,1", "2,3"])
    LocalPool().check([two])
    with pytest.raises(ConfigError, match=r"trainer\.nproc: 8 processes need a GPU each; here are 5"):
        LocalPool().check([eight])


def test_the_ranks_of_a_job_divide_the_batch() -> None:
    config = compose_config("trainer.batch_size=64", "trainer.micro_batch_size=8")
    SlurmArray(nodes=2, gpus=4).check([config])
    with pytest.raises(ConfigError, match=r"trainer\.micro_batch_size: 8 times 12 ranks does not divide"):
        SlurmArray(nodes=3, gpus=4).check([config])


class Dying:
    """A process that is killed after some looks at it; whatever is asked of a store of no other machine."""

    name = "0"

    def __init__(self, looks: int) -> None:
        self.left = looks
        self.sentinel, self.writer = os.pipe()

    @property
    def exitcode(self) -> int | None:
        self.left -= 1
        return None if self.left >= 0 else -signal.SIGKILL

    def add(self, key: str, amount: int) -> int:
        return 0

    def set(self, key: str, value: str) -> None:
        """Nobody reads it."""


@pytest.mark.parametrize("looks", range(9))
def test_a_killed_rank_is_never_one_that_is_done(looks: int) -> None:
    """Whichever of the watch's questions is the first to see it dead."""
    rank: Any = Dying(looks)
    try:
        with pytest.raises(RankKilled, match="rank 0 was killed by SIGKILL"):
            _watch(Team(), [rank], rank, lambda: False)
    finally:
        os.close(rank.sentinel)
        os.close(rank.writer)
