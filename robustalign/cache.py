"""Artefacts that are built once and shared by every run.

The cache works on file systems shared by many machines: it needs only that ``link`` and ``rename`` are atomic, and a
process that died never blocks the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustalign.files import to_disk
from robustalign.locks import Lock, Owner
from robustalign.progress import say

REMIND = 30.0  # seconds between two messages of a waiting process


@dataclass(frozen=True)
class Event:
    """One artefact that a run asked for: built now, or reused (then ``seconds`` is what that saved)."""

    stage: str
    path: Path
    seconds: float
    reused: bool


class ArtefactCache:
    """Folders addressed by the content of their key: ``<root>/<stage>/<hash of the key>``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.events: list[Event] = []

    def path(self, stage: str, key: Mapping[str, Any]) -> Path:
        """Where the artefact of a key is, or would be."""
        return self.root / stage / digest(key)

    def has(self, stage: str, key: Mapping[str, Any]) -> bool:
        """Whether it is built."""
        return (self.path(stage, key) / "key.json").is_file()

    def get(self, stage: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        """The artefact of a key; ``build`` fills an empty folder with it if nobody has yet.

        Processes that ask at the same time wait for the one that builds, and one of them takes over
        if it dies. A build that raises leaves nothing behind.
        """
        folder = self.path(stage, key)
        if not self.has(stage, key):
            lock = Lock(folder.with_name(f"{folder.name}.lock"))
            lock.acquire(waiting=_Reminder(stage))
            try:
                if not self.has(stage, key):
                    self._build(stage, key, build)
                    return folder
            finally:
                lock.release()
        seconds = json.loads((folder / "key.json").read_text())["seconds"]
        self.events.append(Event(stage, folder, seconds, reused=True))
        return folder

    def _build(self, stage: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> None:
        folder = self.path(stage, key)
        for remains in folder.parent.glob(f".{folder.name}.*.building"):  # left behind by a builder that died
            shutil.rmtree(remains, ignore_errors=True)
        scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.building")
        scratch.mkdir(parents=True)
        begin = time.perf_counter()
        say(f"building {stage.replace('_', ' ')} ...")
        try:
            build(scratch)
            seconds = time.perf_counter() - begin
            facts = {"stage": stage, "seconds": round(seconds, 3), "built": time.time(), "key": key}
            (scratch / "key.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
            to_disk(scratch)
            os.rename(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        self.events.append(Event(stage, folder, seconds, reused=False))


def digest(key: Mapping[str, Any]) -> str:
    """20 hex digits for the content of a key; the order of its items does not matter."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class _Reminder:
    """Prints on stderr what the process waits for: at once, then every half minute."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.begin = time.monotonic()
        self.due = 0.0

    def __call__(self, owner: Owner) -> None:
        waited = time.monotonic() - self.begin
        if waited >= self.due:
            self.due = waited + REMIND
            print(f"robustalign: waiting for {self.what}, which {owner} builds ({waited:.0f} s)", file=sys.stderr)
