"""A process that imports everything once and forks a child for every run.

Importing torch and its friends costs seconds of CPU; a sweep of sixty short runs pays them once.
The launching process talks to it in JSON lines (requests on stdin, replies on stdout) and imports
none of that itself. When the launching process is gone, the children stop at their next step.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import traceback
from typing import Any

from robustalign.errors import ConfigError
from robustalign.run import program, worker
from robustalign.run.folder import RunFolder, thaw


class Nursery:
    """Reads requests ``{"id", "do": "run" | "warm" | "check", ...}`` and forks for each."""

    def __init__(self) -> None:
        self.replies = os.dup(1)
        os.dup2(2, 1)  # what anything prints goes to stderr, as stdout carries the replies
        self.children: dict[int, int] = {}
        self.buffer = b""
        self.wake, wake_in = os.pipe()
        os.set_blocking(wake_in, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)

    def serve(self, preload: str) -> int:
        """Serve requests until stdin is closed and every child has ended.

        Args:
            preload: the program to import before the first request is read.
        """
        import_everything(preload)
        listening = True
        while listening or self.children:
            ready, _, _ = select.select([self.wake, 0] if listening else [self.wake], [], [])
            if self.wake in ready:
                os.read(self.wake, 4096)
                self._collect()
            if 0 in ready:
                chunk = os.read(0, 1 << 16)
                listening = bool(chunk)
                *whole, self.buffer = (self.buffer + chunk).split(b"\n")
                for request in map(json.loads, whole):
                    self._fork(request)
                if not listening:
                    for pid in self.children:
                        os.kill(pid, signal.SIGTERM)
        return 0

    def _fork(self, request: dict[str, Any]) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self.children[pid] = request["id"]
            self._reply(id=request["id"], pid=pid)
            return
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _redirect(0, os.devnull)
        os.environ.update(request.get("env", {}))
        if request.get("log"):
            _redirect(1, request["log"])
            os.dup2(1, 2)
        code = 1
        try:
            code = self._do(request, parent)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # an orderly exit would unload every import, which takes as long as the fork has saved

    def _do(self, request: dict[str, Any], parent: int) -> int:
        try:
            if request["do"] == "check":
                return self._check(request)
            os.close(self.replies)  # while it is open here, nobody can see the nursery end
            folder = RunFolder(request["folder"])
            if request["do"] == "warm":
                config = folder.config()
                program.load(config.sweep.program).warm(config)
                return 0
            return worker.work(folder, parent=parent)
        except Exception:
            traceback.print_exc()
            return 1

    def _check(self, request: dict[str, Any]) -> int:
        for frozen in request["configs"]:
            config = thaw(frozen)
            try:
                science = program.load(config.sweep.program)
                lines = science.check_config(config) or []
                answer = {
                    "lines": lines,
                    "shared": science.shared_key(config),
                    "inputs": science.inputs(config),
                }
                if request["outlook"]:
                    answer |= science.outlook(config)
            except ConfigError as error:
                self._reply(id=request["id"], error=[error.key, error.problem])
                return 2
            self._reply(id=request["id"], **answer)
        return 0

    def _collect(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self.children:
                self._reply(id=self.children.pop(pid), code=os.waitstatus_to_exitcode(status))

    def _reply(self, **content: Any) -> None:
        os.write(self.replies, (json.dumps(content) + "\n").encode())


def import_everything(name: str) -> None:
    """Import what runs of a program need, and exempt it from garbage collection, here and in every child.

    A missing program is no error here: it is reported when a config that names it is checked.
    """
    gc.disable()
    with contextlib.suppress(ConfigError):
        program.load(name)
    gc.freeze()
    gc.enable()


def _redirect(number: int, path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, number)
    os.close(file)


if __name__ == "__main__":
    sys.exit(Nursery().serve(sys.argv[1]))
