"""Opening a tracking store; one process at a time creates it."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from robustalign.errors import ConfigError
from robustalign.locks import Lock
from robustalign.stores import hide, sqlite_file, with_password

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NETWORK_DISKS = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "afs", "9p", "fuse.sshfs")


def open_store(uri: str) -> MlflowClient:
    """A client of an MLflow store; a new SQLite file gets its tables first.

    Raises:
        ConfigError: the store cannot be reached.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.pop("MLFLOW_RUN_ID", None)  # else MLflow would send the metrics of every run there
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.store.db_migrations"):
        logging.getLogger(name).setLevel(logging.WARNING)
    file, address = sqlite_file(uri), with_password(uri)
    try:
        if file is None:
            client = MlflowClient(address)
            client.search_experiments(max_results=1)
            return client
        # processes that create the tables at the same time fail
        with store_lock(file):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)
            if on_local_disk(file):
                with sqlite3.connect(file) as connection:
                    connection.execute("PRAGMA journal_mode=WAL")
            if (mistaken := Path(uri.removeprefix("sqlite:///")).parent) != file.parent:
                with contextlib.suppress(OSError):  # MLflow makes a folder of the address as it is spelt
                    mistaken.rmdir()
        return client
    except Exception as error:
        raise ConfigError("tracking.uri", hide(f"cannot open {uri}: {error}")) from error


def store_lock(file: Path) -> Lock:
    """The lock under which things are created in a SQLite store."""
    return Lock(file.with_name(f".{file.name}.lock"))


def on_local_disk(path: Path) -> bool:
    """Whether a file is on a disk of this machine, as far as the mount table tells."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    target = str(path.resolve())
    for mount in mounts:
        _, point, name, *_ = mount.split()
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind not in NETWORK_DISKS and not kind.startswith("fuse")
