"""Writing files so that readers, and a crash at any moment, find the old content or the new one, never half of it."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch path to write to, which becomes ``path`` at the end of the block; a block that raises changes nothing.

    Scratch files start with a dot and have the file's name in them: nothing that looks for ``*.csv`` finds one.
    """
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file at once, however many processes read or write it."""
    with replacing(path) as scratch:
        scratch.write_text(text)


def to_disk(folder: Path) -> None:
    """Force a folder's files to disk, so that it is whole after a rename even if the machine fails."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
