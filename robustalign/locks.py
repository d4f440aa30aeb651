"""A lock with an owner, on file systems shared by many machines.

It needs only that ``link`` and ``rename`` are atomic, and a process that died never blocks the others.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

HEARTBEAT = 10.0  # seconds between two signs of life of a lock's owner
EXPIRY = 120.0  # seconds without one after which an owner on another machine counts as dead


@functools.cache
def machine() -> str:
    """The scope of a process id: host name, boot and process namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8])
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "|".join(parts)


def start_time(pid: int) -> int | None:
    """When a process of this machine started (ticks since boot); None if there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _start_time_without_proc(pid)
    return None if fields[0] in "ZX" else int(fields[19])


def _start_time_without_proc(pid: int) -> int | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return 0


@dataclass(frozen=True)
class Owner:
    """The process behind a lock."""

    token: str
    machine: str
    pid: int
    started: int
    since: float

    @classmethod
    def me(cls) -> Owner:
        """The calling process, under a new token."""
        return cls(uuid.uuid4().hex[:16], machine(), os.getpid(), start_time(os.getpid()) or 0, time.time())

    @property
    def local(self) -> bool:
        """Whether the process is of this machine."""
        return self.machine == machine()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.partition('|')[0]}"


class Lock:
    """A lock with an owner: one process at a time, and a dead owner's lock is taken over.

    An owner of this machine is dead when its process is; one elsewhere when it gave no sign of life
    for ``expiry`` seconds (file times are compared with each other, never with a local clock).

    The lock is a chain of files: ``path`` holds the first owner's token, ``path.TOKEN`` the process
    that took over from the owner TOKEN, and the end of the chain is the owner. Every file appears by
    an exclusive ``link``, so each dead owner has one heir; releasing removes the head.
    """

    def __init__(self, path: Path, *, heartbeat: float = HEARTBEAT, expiry: float = EXPIRY) -> None:
        self.path = Path(path)
        self.heartbeat = heartbeat
        self.expiry = expiry
        self._me: Owner | None = None
        self._place: Path | None = None
        self._done = threading.Event()

    def acquire(
        self,
        *,
        blocking: bool = True,
        timeout: float | None = None,
        waiting: Callable[[Owner], None] | None = None,
    ) -> bool:
        """Take the lock; False if another process still has it when the patience ends.

        Args:
            blocking: wait for it (False: look once).
            timeout: seconds to wait at most (None: for ever).
            waiting: called with the owner after every unsuccessful look.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.05
        while True:
            owner = self._try()
            if owner is None:
                self._done = threading.Event()
                threading.Thread(target=self._beat, args=(self._place, self._done), daemon=True).start()
                return True
            if not blocking or (deadline is not None and time.monotonic() >= deadline):
                return False
            if waiting is not None:
                waiting(owner)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def release(self) -> None:
        """Release the lock; in a process that does not own it (a forked child) nothing happens."""
        if self._me is None or self._me.pid != os.getpid():
            return
        self._done.set()
        chain = self._chain()
        if chain and chain[-1][1] == self._me:
            for place, _ in chain:
                place.unlink(missing_ok=True)
        self._me = self._place = None

    def owner(self) -> Owner | None:
        """The living process that has the lock; None if there is none."""
        chain = self._chain()
        if not chain:
            return None
        place, owner = chain[-1]
        if owner.local:
            return None if self._dead(place, owner, place) else owner
        with self._claim(Owner.me()) as now:
            return None if self._dead(place, owner, now) else owner

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _try(self) -> Owner | None:
        """Try once. Returns None if this process has the lock now, else the living owner."""
        me = Owner.me()
        with self._claim(me) as claim:
            while True:
                chain = self._chain()
                if chain and not self._dead(*chain[-1], claim):
                    return chain[-1][1]
                place = self._heir_of(chain[-1][1]) if chain else self.path
                linked = False
                with contextlib.suppress(FileExistsError):
                    os.link(claim, place)
                    linked = True
                chain = self._chain()
                if chain and chain[-1][1] == me:
                    self._me, self._place = me, chain[-1][0]
                    return None
                if linked:  # the chain was released meanwhile
                    place.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _claim(self, me: Owner) -> Iterator[Path]:
        """A complete lock file under a name of its own; its time stamp is the file system's present."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        claim = self.path.with_name(f".{self.path.name}.{me.token}")
        claim.write_text(json.dumps(asdict(me)))
        try:
            yield claim
        finally:
            claim.unlink(missing_ok=True)

    def _heir_of(self, owner: Owner) -> Path:
        return self.path.with_name(f"{self.path.name}.{owner.token}")

    def _chain(self) -> list[tuple[Path, Owner]]:
        chain: list[tuple[Path, Owner]] = []
        place = self.path
        while True:
            try:
                owner = Owner(**json.loads(place.read_text()))
            except FileNotFoundError:
                return chain
            chain.append((place, owner))
            place = self._heir_of(owner)

    def _dead(self, place: Path, owner: Owner, now: Path) -> bool:
        if owner.local:
            return start_time(owner.pid) != owner.started
        try:
            return now.stat().st_mtime - place.stat().st_mtime > self.expiry
        except FileNotFoundError:
            return False

    def _beat(self, place: Path, done: threading.Event) -> None:
        while not done.wait(self.heartbeat):
            with contextlib.suppress(OSError):
                os.utime(place)
