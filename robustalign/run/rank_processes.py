"""The processes that share a run: forked, watched, and ended together.

The worker that holds a run's lock does not compute: it forks one process for each rank of its machine and watches them.
It also serves a small key-value store, through which the ranks find each other and report their errors. With several
machines the first one runs this worker. The others read the address of the store from a file that all machines share,
the board.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustalign.errors import ConfigError
from robustalign.files import replace_text
from robustalign.run.folder import Stopped

if TYPE_CHECKING:
    from torch.distributed import TCPStore

TICK = 0.1  # seconds between two looks at the ranks
# When a rank is killed, the others fail because they lose contact, and often report that first. So after the first
# report the watcher waits this many seconds for a kill, which is then the cause that is named.
GRACE = 0.5
GRACE_ACROSS_MACHINES = 10.0
ARRIVAL = timedelta(minutes=5)  # how long the first machine may take to answer
PATIENCE = timedelta(hours=24)  # how long ranks wait for one that samples or evaluates


@dataclass(frozen=True)
class Team:
    """``processes`` ranks on each of ``nodes`` machines, of which this one is number ``node``."""

    processes: int = 1
    nodes: int = 1
    node: int = 0
    board: Path | None = None

    @property
    def ranks(self) -> int:
        """The number of ranks of the whole run."""
        return self.processes * self.nodes


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one attempt at a run meet."""

    run: str
    processes: int
    host: str
    port: int


class RankFailed(Exception):
    """A rank raised; the others were ended."""

    def __init__(self, report: dict[str, Any]) -> None:
        super().__init__(f"rank {report['rank']}: {report['error']}")
        self.trace = str(report["trace"])


class RankKilled(Exception):
    """A signal killed a rank; the others were ended."""


def lead(team: Team, run: str, device: str, work: Callable[[], None], stop: Callable[[], bool]) -> None:
    """Have every rank ``work``, those of other machines included, and wait for their end.

    Args:
        team: of which this is the first machine.
        run: what the other machines call it.
        device: ``trainer.device``.
        work: done by each rank; Stopped means that it was asked to stop.
        stop: whether to ask the ranks to stop.

    Raises:
        Stopped: the ranks saved a checkpoint and stopped.
        RankFailed, RankKilled: why the first rank failed.
        ConfigError: a rank found that the user has to change something.
    """
    alone = team.nodes == 1
    with socket.create_server(("127.0.0.1" if alone else "", 0), backlog=256) as listener:
        host = "127.0.0.1" if alone else socket.gethostname()
        meeting = Meeting(run, team.processes, host, listener.getsockname()[1])
        ranks = _fork(team, meeting, device, work)  # before the store starts threads
        try:
            store = _store(meeting, listener.detach())
            _announce(team.board, meeting)
            _watch(team, ranks, store, stop)
            if store.check(["stopped"]):
                raise Stopped
        finally:
            _end(ranks)


def follow(
    board: Path,
    nodes: int,
    node: int,
    device: Callable[[Meeting], str],
    work: Callable[[Meeting], Callable[[], None]],
) -> None:
    """On machine number ``node`` > 0 of a job: take part in its runs until there are no more."""
    for meeting in _meetings(board):
        team = Team(meeting.processes, nodes, node)
        ranks = _fork(team, meeting, device(meeting), work(meeting))
        with contextlib.suppress(RankFailed, RankKilled, ConfigError, RuntimeError):  # the first machine settles it
            try:
                _watch(team, ranks, _store(meeting), lambda: False)
            finally:
                _end(ranks)


def dismiss(board: Path | None) -> None:
    """Tell the other machines that there is nothing more to do."""
    if board is not None:
        replace_text(board, json.dumps({}))


def _announce(board: Path | None, meeting: Meeting) -> None:
    if board is not None:
        replace_text(board, json.dumps(vars(meeting)))


def _meetings(board: Path) -> Iterator[Meeting]:
    """Yield each meeting that the board announces, until the board says that the job is done."""
    last: dict[str, Any] | None = None
    while True:
        with contextlib.suppress(FileNotFoundError):
            content = json.loads(board.read_text())
            if not content:
                return
            if content != last:
                last = content
                yield Meeting(**content)
        time.sleep(TICK)


def _store(meeting: Meeting, listener: int | None = None) -> TCPStore:
    from torch.distributed import TCPStore

    store = TCPStore(
        meeting.host,
        meeting.port,
        is_master=listener is not None,
        timeout=ARRIVAL,
        wait_for_workers=False,
        master_listen_fd=listener,
    )
    store.set_timeout(PATIENCE)
    return store


def _fork(team: Team, meeting: Meeting, device: str, work: Callable[[], None]) -> list[BaseProcess]:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    args = team, meeting, device, work
    ranks: list[BaseProcess] = []
    for local in range(team.processes):
        ranks.append(context.Process(target=_rank, args=(local, *args), name=str(local)))
        ranks[-1].start()
    return ranks


def _rank(local: int, team: Team, meeting: Meeting, device: str, work: Callable[[], None]) -> None:
    """Be one rank, from fork to exit. It exits here, so that no code of the process that forked it runs in it."""
    import torch.multiprocessing

    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]  # a rank ends with its watcher: the run's lock is free then
    rank = team.node * team.processes + local
    code, store = 1, _store(meeting)
    try:
        _join(rank, local, team, meeting, device, store)
        work()
        code = 0
    except Stopped:
        store.set("stopped", "")
        code = 0
    except BaseException as error:
        traceback.print_exc()
        failure = {"rank": rank, "error": one_line(error), "trace": traceback.format_exc()}
        _report(store, failure | {"config": [error.key, error.problem] if isinstance(error, ConfigError) else None})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _join(rank: int, local: int, team: Team, meeting: Meeting, device: str, store: TCPStore) -> None:
    """Become a rank, as torchrun's variables name it, on a GPU of its own where there are any."""
    import torch
    import torch.distributed as dist

    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(team.ranks),
        "LOCAL_WORLD_SIZE": str(team.processes),
        "MASTER_ADDR": meeting.host,
        "MASTER_PORT": str(meeting.port),
    }
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore("ranks", store),
        rank=rank,
        world_size=team.ranks,
        timeout=PATIENCE,
    )


def _report(store: TCPStore, failure: dict[str, Any]) -> None:
    """Store why a rank failed. Reports are numbered in the order they arrive, as one failure makes the other ranks
    fail.
    """
    with contextlib.suppress(RuntimeError):  # the store is gone, and so is its reader
        store.set(f"failure {store.add('failures', 1)}", json.dumps(failure))


def _watch(team: Team, ranks: list[BaseProcess], store: TCPStore, stop: Callable[[], bool]) -> None:
    """Wait until all ranks of this machine have ended well.

    Raises:
        RankFailed, RankKilled, ConfigError: why the first rank failed.
    """
    from multiprocessing.connection import wait

    signalled, deadline = False, math.inf
    while any(process.exitcode != 0 for process in ranks) or deadline < math.inf:  # a rank that failed is judged below
        wait([process.sentinel for process in ranks if process.exitcode is None], timeout=TICK)
        for process in ranks:
            if process.exitcode is not None and process.exitcode < 0:
                rank, number = team.node * team.processes + int(process.name), signal.Signals(-process.exitcode)
                error = f"rank {rank} was killed by {number.name}"
                print(f"robustalign: {error}", file=sys.stderr, flush=True)
                _report(store, {"killed": error})
                raise RankKilled(error)
        if deadline == math.inf and (any(process.exitcode for process in ranks) or store.add("failures", 0)):
            deadline = time.monotonic() + (GRACE_ACROSS_MACHINES if team.nodes > 1 else GRACE)
        if deadline < math.inf:
            _judge(store, final=time.monotonic() >= deadline)
        elif stop() and not signalled:
            signalled = True
            for process in ranks:
                os.kill(int(process.pid or 0), signal.SIGUSR1)


def _judge(store: TCPStore, final: bool) -> None:
    """Raise why the first rank failed. Errors are raised when ``final``, a kill at once: a killed rank reports late."""
    keys = [f"failure {number}" for number in range(1, store.add("failures", 0) + 1)]
    reports = [json.loads(store.get(key)) for key in keys if store.check([key])]
    for report in reports:
        if "killed" in report:
            raise RankKilled(report["killed"])
    if final and not reports:
        raise RankKilled("a rank ended without a report")
    if final:
        raise ConfigError(*reports[0]["config"]) if reports[0]["config"] else RankFailed(reports[0])


def _end(ranks: list[BaseProcess]) -> None:
    """Kill the ranks: one that waits for a dead rank reacts to no other signal."""
    for process in ranks:
        process.kill()
        process.join()


def one_line(error: BaseException) -> str:
    """An exception as one line of at most 500 characters, for a table."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:500] if words else type(error).__name__
