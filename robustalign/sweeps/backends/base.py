"""What starts the runs of a sweep: a pool on this machine, a job array, or whatever else satisfies this protocol."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from robustalign.config import Config
    from robustalign.sweeps.fork_client import NurseryClient
    from robustalign.sweeps.sweep import Run, Sweep


class Outcome(Enum):
    """Why a backend returned."""

    DONE = "nothing is left to do"
    STOPPED = "the user stopped it"
    LEFT = "the runs go on without us"


class Backend(Protocol):
    """Starts the runs of a sweep somewhere. Its constructor takes the keys of ``hydra.launcher`` by name."""

    wait: bool  # return when every run has ended; else when all are launched

    def check(self, configs: Sequence[Config]) -> None:
        """Refuse configs that it cannot run.

        Raises:
            ConfigError: the key and the fix.
        """

    def describe(self, configs: Sequence[Config]) -> str:
        """What a dry run shows of how runs would be started."""

    def memory(self) -> dict[str, Any]:
        """What :func:`restore` needs to make the same backend: the module as ``kind``, the constructor's arguments as
        ``options``.
        """

    def look(self, sweep: Sweep) -> None:
        """Mark runs whose process (and job, if they have one) is gone."""

    def run(self, sweep: Sweep, todo: Sequence[Run], warm: Sequence[Run], client: NurseryClient) -> Outcome:
        """Run everything that is to do, and wait for it if ``wait`` is set.

        Args:
            sweep: all runs.
            todo: those to start, or to wait for where another launch runs them.
            warm: one run of each group that shares stages; these are built first.
            client: a nursery on this machine that has imported everything.
        """

    def cancel(self, sweep: Sweep, runs: Sequence[Run]) -> None:
        """Remove cancelled runs from the queue. A run that is running sees the cancel request by itself."""
