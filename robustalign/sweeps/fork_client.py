"""The client of a nursery, in the launching process: it starts children and waits for their end."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustalign.config import SweepConfig
from robustalign.errors import ConfigError

LOST = -signal.SIGKILL  # the exit code of a child whose nursery died
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # a nursery only imports; a request brings its own


@dataclass
class Child:
    """A forked process."""

    pid: int | None = None
    code: int | None = None  # its exit code, negative for a signal
    replies: list[dict[str, Any]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        if self.pid is not None and not self.done.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class NurseryClient:
    """A nursery process and its children. It starts importing at once; requests may follow right away."""

    def __init__(self, preload: str = SweepConfig.program, environment: Mapping[str, str] | None = None) -> None:
        self._numbers = itertools.count()
        self._children: dict[int, Child] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "robustalign.run.fork_server", preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **QUIET, **(environment or {})},
            start_new_session=True,  # Ctrl-C is for the launching process
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        """Whether the nursery still accepts requests."""
        return self._process.poll() is None and self._listener.is_alive()

    def start(self, do: str, **request: Any) -> Child:
        """Fork a child for a request."""
        child, number = Child(), next(self._numbers)
        self._children[number] = child
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"id": number, "do": do, **request}) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            self._end(number, LOST)
        if not self._listener.is_alive():
            self._end(number, LOST)
        return child

    def run(self, folder: Path, log: Path, env: Mapping[str, str]) -> Child:
        """Fork a child that works on a run's folder."""
        return self.start("run", folder=str(folder), log=str(log), env=dict(env))

    def check(
        self, configs: Sequence[Mapping[str, Any]], outlook: bool = False, env: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Check configs where torch is imported.

        Returns:
            For each config the ``lines`` to print, the key of the ``shared`` stages, the
            fingerprints of its ``inputs``, and with ``outlook`` the stages ``to_build`` and the ``tokens`` of training.

        Raises:
            ConfigError: of the first config that cannot run.
        """
        child = self.start("check", configs=list(configs), outlook=outlook, env=dict(env or {}))
        child.done.wait()
        for reply in child.replies:
            if "error" in reply:
                raise ConfigError(*reply["error"])
        if child.code != 0:
            raise RuntimeError("the configs could not be checked; the reason is above")
        return child.replies

    def close(self) -> None:
        """End the nursery, even while it imports; children that still run stop at their next step."""
        if not self._children:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reply = json.loads(line)
            child = self._children[reply["id"]]
            if "pid" in reply:
                child.pid = reply["pid"]
            elif "code" in reply:
                self._end(reply["id"], reply["code"])
            else:
                child.replies.append(reply)
        for number in list(self._children):
            self._end(number, LOST)

    def _end(self, number: int, code: int) -> None:
        child = self._children.pop(number, None)
        if child is not None:
            child.code = code
            child.done.set()
