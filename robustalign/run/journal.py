"""The journal of a run: metrics, parameters, tags and files, as an append-only file of JSON lines in its folder.

The journal is the ground truth: a tracking store is filled from it, while the run goes on or later.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SYNC_EVERY = 1.0  # seconds between two forced writes to disk


class Journal:
    """Appends records; safe against a kill at any moment.

    A last line that a kill cut short is dropped on opening. A metric that the journal already has for a
    step is not written again, so a run that repeats steps after a kill has each step once.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._logged = {
            (name, record["step"])
            for record in read(self.path)
            if record["kind"] == "metrics"
            for name in record["values"]
        }
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, _whole(self.path))
        self._synced = time.monotonic()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at an optimiser step."""
        new = {name: float(value) for name, value in values.items() if (name, step) not in self._logged}
        if new:
            self._append("metrics", step=step, values=new)
            self._logged.update((name, step) for name in new)

    def params(self, values: Mapping[str, Any]) -> None:
        """Facts that hold for the whole run."""
        self._append("params", values=dict(values))

    def tags(self, values: Mapping[str, Any]) -> None:
        """Labels; a later one replaces an earlier one of the same name."""
        self._append("tags", values=dict(values))

    def artifact(self, relative_path: str) -> None:
        """Name a file or folder of the run's folder that is to be copied into the tracking store."""
        self._append("artifact", path=relative_path)

    def dataset(self, name: str, fingerprint: str, context: str, rows: int) -> None:
        """Data that the run used: ``context`` says for what (training, validation, test)."""
        self._append("dataset", name=name, fingerprint=fingerprint, context=context, rows=rows)

    def stage(
        self,
        stage: str,
        digest: str,
        *,
        built: float,
        seconds: float,
        params: Mapping[str, str],
        values: Mapping[str, float],
        losses: Sequence[float] = (),
    ) -> None:
        """A shared artefact that the run used, ``built`` in ``seconds`` from ``params``, and its losses by step."""
        facts = {"built": built, "seconds": seconds, "params": dict(params), "values": dict(values)}
        facts["losses"] = list(losses)
        self._append("stage", stage=stage, digest=digest, **facts)

    def sync(self) -> None:
        """Force everything to disk; called before a checkpoint, which must not know more than the journal."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Force everything to disk and write no more."""
        self.sync()
        os.close(self._file)

    def _append(self, kind: str, **content: Any) -> None:
        record = {"kind": kind, "time": time.time_ns() // 1_000_000, **content}
        os.write(self._file, (json.dumps(record) + "\n").encode())
        if time.monotonic() - self._synced > SYNC_EVERY:
            self.sync()


class SilentJournal(Journal):
    """The journal of a rank other than 0: it writes nothing."""

    def __init__(self) -> None:
        self._logged = set()

    def sync(self) -> None:
        """There is nothing to force to disk."""

    def _append(self, kind: str, **content: Any) -> None:
        pass


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a journal; none if there is no file."""
    yield from (record for record, _ in read_from(path, 0))


def read_from(path: Path, offset: int) -> Iterator[tuple[dict[str, Any], int]]:
    """Whole records from a byte offset on, each with the offset behind it; one that a crash cut short is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            with contextlib.suppress(ValueError):
                yield json.loads(line), offset


def _whole(path: Path) -> int:
    """The length of a journal in bytes, without a last line that was cut short."""
    return path.read_bytes().rfind(b"\n") + 1
