"""One cluster for all tests of this folder; without SLURM they are skipped with the reason."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.shell import Shell
from tests.sweeps.slurm.cluster import Cluster, install, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if missing() and os.environ.get("ROBUSTALIGN_INSTALL_SLURM") == "1" and os.geteuid() == 0:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no Debian, or no network
            install()
    if why := missing():
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("slurm"), nodes=4, cpus=2) as up:
        yield up


@pytest.fixture
def shell(tmp_path: Path, cluster: Cluster) -> Shell:
    """A shell on the cluster's submit host."""
    made = Shell(tmp_path)
    made.env["SLURM_CONF"] = str(cluster.conf)
    return made
