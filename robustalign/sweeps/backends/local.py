"""A pool of worker processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from robustalign import bounds
from robustalign.config import Config, SweepConfig
from robustalign.errors import ConfigError
from robustalign.locks import Lock, Owner
from robustalign.run.folder import RunFolder, State, mark_dead, mark_if_dead, mark_stopped
from robustalign.run.worker import BUSY, cause
from robustalign.sweeps.backends.base import Outcome
from robustalign.sweeps.display import Progress
from robustalign.sweeps.fork_client import Child, NurseryClient
from robustalign.sweeps.sweep import Run, Sweep

TICK = 0.05  # seconds between two looks at the children


@dataclass
class LocalPool:
    """Runs as many runs at once as there are cores (or GPUs) for; a run that is killed or fails stops no other."""

    workers: int = bounds.number(0, "[0, inf)")
    wait: bool = True

    def check(self, configs: Sequence[Config]) -> None:
        """Every process of a run needs a GPU of its own, where there are GPUs."""
        for trainer in (config.trainer for config in configs):
            gpus = visible_gpus() if trainer.device != "cpu" else []
            if gpus and trainer.nproc > len(gpus):
                raise ConfigError("trainer.nproc", f"{trainer.nproc} processes need a GPU each; here are {len(gpus)}")

    def describe(self, configs: Sequence[Config]) -> str:
        """The pool's size."""
        count, gpus = self.slots(configs)
        where = f" on GPUs {', '.join(gpus)}" if gpus else ""
        nproc = max(config.trainer.nproc for config in configs)
        each = f"{nproc} processes of {threads(configs)} threads" if nproc > 1 else f"{threads(configs)} threads"
        return f"local: {min(count, len(configs))} at once, {each} each{where}"

    def slots(self, configs: Sequence[Config]) -> tuple[int, list[str]]:
        """How many runs fit at once, and the GPUs to spread them over: one for each process of a run."""
        nproc = max(config.trainer.nproc for config in configs)
        gpus = visible_gpus() if any(config.trainer.device != "cpu" for config in configs) else []
        groups = [",".join(gpus[start : start + nproc]) for start in range(0, len(gpus) - nproc + 1, nproc)]
        return self.workers or len(groups) or max(1, cores() // (threads(configs) * nproc)), groups

    def memory(self) -> dict[str, Any]:
        """Its options."""
        return {"kind": "local", "options": {"workers": self.workers, "wait": self.wait}}

    def look(self, sweep: Sweep) -> None:
        """Mark runs without a living process as killed: there is no scheduler that would restart them."""
        for run in sweep.runs:
            mark_if_dead(run.folder)

    def cancel(self, sweep: Sweep, runs: Sequence[Run]) -> None:
        """Do nothing: a run that waits for a worker checks for a cancel request before it starts."""

    def run(self, sweep: Sweep, todo: Sequence[Run], warm: Sequence[Run], client: NurseryClient) -> Outcome:
        """Run everything, unless the user stops it; in a process of its own that ``wait=false`` leaves behind."""
        if not self.wait:
            _run_in_background(sweep)
            return Outcome.LEFT
        lock, reminder = Lock(sweep.folder / "launcher.lock"), _Reminder()
        with _Stops() as stops, Progress(sweep) as progress:
            while not lock.acquire(timeout=0.5, waiting=reminder):  # another launch runs it
                progress.update()
                if stops.count:
                    return Outcome.STOPPED
            try:
                self._run(sweep, todo, warm, client, stops, progress)
            finally:
                lock.release()
        return Outcome.STOPPED if stops.count else Outcome.DONE

    def _run(
        self,
        sweep: Sweep,
        todo: Sequence[Run],
        warm: Sequence[Run],
        client: NurseryClient,
        stops: _Stops,
        progress: Progress,
    ) -> None:
        todo = [run for run in todo if not run.folder.status().state.ended]
        for run in warm if len(todo) > 1 else []:
            _warm(run.folder, sweep, client, stops)
        pool = _Pool(sweep, todo, self, client)
        echo = _Echo(sweep.runs[0].folder.log) if len(sweep.runs) == 1 else None
        while pool.busy:
            pool.step(stops)
            progress.update()
            if echo is not None:
                echo.update()
            time.sleep(TICK)
        if echo is not None:
            echo.update()


def _run_in_background(sweep: Sweep) -> None:
    """Start ``robustalign sweep wait`` in a process that outlives this terminal."""
    log = sweep.folder / "launch.log"
    words = [sys.executable, "-m", "robustalign.cli.sweep", "wait", sweep.id, "--output", str(sweep.output)]
    with open(log, "ab") as file:
        subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    print(f"robustalign: the sweep's log: {log}", file=sys.stderr)


class _Pool:
    """The state of a pool: the runs that wait, those that run in a slot, and those that another launch runs."""

    def __init__(self, sweep: Sweep, todo: Sequence[Run], options: LocalPool, client: NurseryClient) -> None:
        configs = [run.folder.config() for run in todo]
        slots, self.gpus = options.slots(configs) if configs else (0, [])
        self.sweep = sweep
        self.queue = deque(todo)
        self.free = deque(range(slots))
        self.active: dict[int, tuple[Run, Child, NurseryClient]] = {}
        self.elsewhere: list[Run] = []
        self.client = client
        self.program = configs[0].sweep.program if configs else SweepConfig.program
        self.env = environment(configs) | sweep.environment

    @property
    def busy(self) -> bool:
        """Whether anything is left to wait for."""
        return bool(self.queue or self.active or self.elsewhere)

    def step(self, stops: _Stops) -> None:
        """Record the runs that ended, start as many as fit, and pass a stop on to the children."""
        for slot, (run, child, client) in list(self.active.items()):
            if child.done.is_set():
                del self.active[slot]
                self.free.append(slot)
                if client is not self.client:
                    client.close()
                self._settle(run, child, stopping=stops.count > 0)
        self.elsewhere = [run for run in self.elsewhere if not self._back(run)]
        if stops.count:
            self.queue.clear()
            self.elsewhere.clear()
            stops.pass_on([child for _, child, _ in self.active.values()])
        while self.queue and self.free:
            self._start(self.queue.popleft())

    def _start(self, run: Run) -> None:
        if run.folder.runner() is not None:
            self.elsewhere.append(run)
        elif run.folder.cancel_asked():
            run.folder.set_status(State.CANCELLED)
        else:
            slot = self.free.popleft()
            client, env = self._client(slot)
            self.active[slot] = run, client.run(run.folder.path, run.folder.log, env), client

    def _client(self, slot: int) -> tuple[NurseryClient, Mapping[str, str]]:
        if self.gpus:  # CUDA does not survive a fork, so every run gets a nursery of its own
            env = {**self.env, "CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]}
            return NurseryClient(self.program, env), env
        if not self.client.alive:
            self.client = NurseryClient(self.program)
        return self.client, self.env

    def _settle(self, run: Run, child: Child, stopping: bool) -> None:
        status = run.folder.status()
        if child.code == BUSY or run.folder.runner() is not None:
            self.elsewhere.append(run)
        elif status.state is State.PREEMPTED:
            self.queue.append(run)
        elif stopping and not status.state.ended:
            mark_stopped(run.folder)
        elif not status.state.ended:
            if status.state is not State.KILLED:  # else a worker that lost a rank has set it
                mark_dead(run.folder, cause(child.code))
            self._restart(run)

    def _back(self, run: Run) -> bool:
        """Whether the other launch has left a run; it is then queued here if it can go on."""
        if run.folder.runner() is not None:
            return False
        mark_if_dead(run.folder)
        status = run.folder.status()
        if status.state is State.KILLED:
            self._restart(run)
        elif not status.state.ended:
            self.queue.append(run)
        return True

    def _restart(self, run: Run) -> None:
        if self.sweep.restartable(run.folder.status()):
            self.queue.append(run)


class _Stops:
    """Counts Ctrl-C and similar signals: the first asks the runs to save and stop, the next kills them."""

    def __init__(self) -> None:
        self.count = 0
        self.passed: dict[int, int] = {}

    def __enter__(self) -> _Stops:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        self.before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def pass_on(self, children: Sequence[Child]) -> None:
        """Pass each stop on to each child once."""
        for child in children:
            if child.pid is not None and self.passed.get(child.pid, 0) < self.count:
                self.passed[child.pid] = self.count
                child.kill(signal.SIGTERM if self.count == 1 else signal.SIGKILL)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            text = "stopping: each run saves a checkpoint at its next step; the same command goes on from there"
            print(f"\nrobustalign: {text} (once more: kill them now)", file=sys.stderr)


class _Reminder:
    """Says once that another launch runs the sweep."""

    def __init__(self) -> None:
        self.warned = False

    def __call__(self, owner: Owner) -> None:
        if not self.warned:
            print(f"robustalign: {owner} runs this sweep already; waiting for it", file=sys.stderr)
        self.warned = True


class _Echo:
    """Copies what a run writes into its log to the terminal."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.offset = log.stat().st_size if log.exists() else 0

    def update(self) -> None:
        """Copy what is new."""
        with contextlib.suppress(FileNotFoundError), open(self.log, "rb") as file:
            file.seek(self.offset)
            chunk = file.read()
            self.offset += len(chunk)
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()


def _warm(folder: RunFolder, sweep: Sweep, client: NurseryClient, stops: _Stops) -> None:
    """Build the stages that several runs share before they start and wait for each other."""
    log = sweep.folder / "warm.log"
    print(f"robustalign: preparing shared stages (log: {log})", file=sys.stderr)
    env = environment([folder.config()]) | sweep.environment
    child = client.start("warm", folder=str(folder.path), log=str(log), env=env)
    while not child.done.wait(TICK):
        if stops.count:
            stops.pass_on([child])
    if child.code and not stops.count:
        print("robustalign: warning: the shared stages failed; each run tries for itself", file=sys.stderr)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def threads(configs: Sequence[Config]) -> int:
    """The most threads that a process of one of the configs uses."""
    return min(max(c.trainer.threads or max(1, cores() // c.trainer.nproc) for c in configs), cores())


def environment(configs: Sequence[Config]) -> dict[str, str]:
    """Environment variables of a run's process: other libraries use as many threads as torch."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return dict.fromkeys(names, str(threads(configs))) if configs else {}


def visible_gpus() -> list[str]:
    """The GPUs that runs may use, without importing torch."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


BACKEND = LocalPool
