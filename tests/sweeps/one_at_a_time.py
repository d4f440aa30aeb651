"""A backend of one's own: the runs one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from robustalign.run.folder import mark_if_dead
from robustalign.sweeps.backends.base import Outcome


class OneAtATime:
    def __init__(self, wait: bool = True) -> None:
        self.wait = wait

    def check(self, configs) -> None:
        pass

    def describe(self, configs) -> str:
        return "one at a time"

    def memory(self):
        return {"kind": __name__, "options": {"wait": self.wait}}

    def look(self, sweep) -> None:
        for run in sweep.runs:
            mark_if_dead(run.folder)

    def cancel(self, sweep, runs) -> None:
        pass

    def run(self, sweep, todo, warm, client) -> Outcome:
        for run in todo:
            with open(run.folder.log, "ab") as log:
                subprocess.run([sys.executable, "-m", "robustalign.run.worker", str(run.folder.path)], stderr=log)
        return Outcome.DONE


BACKEND = OneAtATime
