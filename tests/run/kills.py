"""Kills runs at random points of every stage and lets them go on: all must end as one that nobody disturbed.

    python -m tests.run.kills 200

A life is one run in empty folders, killed (SIGKILL) a few times and then left alone. Half of the kills come after a
random share of a random stage's usual time, the other half just before one of its changes of files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from robustalign.config import Config, SweepConfig
from robustalign.data.sources import chitchat
from robustalign.run import program, worker
from robustalign.run.folder import RunFolder, mark_if_dead
from robustalign.run.journal import read
from tests.conftest import SMALL, compose_config

STAGES = {  # the innermost of these functions on the stack names the stage; in the order they come to their work
    "Stages.candidates_folder": "candidates",
    "Stages.reward_assets": "reward assets",
    "Stages.scores_folder": "scores",
    "Stages.reference_folder": "reference log-probs",
    "prepare": "pairs",
    "PairTrainer.train": "training",
    "save_checkpoint": "checkpoint",
    "save_trained": "saving the policy",
    "Computation.evaluate": "evaluation",
    "Computation.evaluate_controls": "controls",
    "HeldOut.reference_cells": "reference cells",
    "Computation.finish": "finish",
    "Computation.clean": "clean",
    "work": "begin and end",
}
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate", "os.utime", "shutil.rmtree"}
METHODS = ("wdpo", "kldpo", "group_robust")
KEYS = (
    "evaluation.steps=[0,2]",
    "evaluation.shrinkage=[0.5]",
    "evaluation.splits=[test]",
    "evaluation.bootstrap=20",
    "shift.targets={joy_0.5:0.5}",
    "trainer.save_steps=2",
    "trainer.save_model=true",
    "trainer.threads=1",
    "trainer.device=cpu",
)
METHOD_KEYS = {"group_robust": ("shift.visible=tag",)}
PERIOD = 0.001  # seconds between two looks at the stack


def stage_of(frame: FrameType | None) -> str:
    """The stage that a stack is in."""
    while frame is not None:
        if name := STAGES.get(frame.f_code.co_qualname):
            return name
        frame = frame.f_back
    return ""


@dataclass
class Effort:
    """What a stage takes: seconds, and changes of files."""

    seconds: float = 0.0
    changes: int = 0


@dataclass
class Death:
    """Where a run is to die: after so much of a stage."""

    stage: str
    after: Effort


@dataclass
class Watch:
    """Follows a run's stages from inside its process; kills it where it is to die."""

    death: Death | None = None
    efforts: dict[str, Effort] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.main = threading.get_ident()
        sys.addaudithook(self._change)
        threading.Thread(target=self._look, daemon=True).start()

    def _change(self, event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and threading.get_ident() == self.main:
            self._spend(stage_of(sys._getframe()), changes=1)

    def _look(self) -> None:
        before = time.perf_counter()
        while True:
            time.sleep(PERIOD)
            now = time.perf_counter()
            self._spend(stage_of(sys._current_frames().get(self.main)), seconds=now - before)
            before = now

    def _spend(self, stage: str, seconds: float = 0.0, changes: int = 0) -> None:
        effort = self.efforts.setdefault(stage, Effort())
        effort.seconds += seconds
        effort.changes += changes
        if self.death is not None and stage == self.death.stage:
            limit = self.death.after
            if effort.changes >= limit.changes > 0 or effort.seconds >= limit.seconds > 0:
                os.kill(os.getpid(), signal.SIGKILL)


def fork(folder: RunFolder, death: Death | None = None, efforts: Path | None = None) -> int:
    """Run a folder in a child process; its exit code, negative for a signal."""
    pid = os.fork()
    if not pid:
        log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        watch = Watch(death)
        code = worker.work(folder)
        if efforts is not None:
            efforts.write_text(json.dumps({name: vars(effort) for name, effort in watch.efforts.items()}))
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def config(root: Path, method: str) -> Config:
    places = (f"paths.output={root / 'outputs'}", f"paths.cache={root / 'cache'}")
    return compose_config(*SMALL, *KEYS, *METHOD_KEYS.get(method, ()), f"method={method}", *places)


def born(root: Path, method: str) -> RunFolder:
    """A run that has not started, in empty folders."""
    folder = RunFolder(root / "outputs" / "runs" / "run")
    folder.freeze(config(root, method))
    return folder


def artefacts(root: Path) -> dict[str, str]:
    """The complete artefacts in a cache: what each file holds, clocks and random names apart."""
    found = {}
    for path in sorted((root / "cache").glob("*/*/*")):
        name = path.relative_to(root)
        if path.parent.name.startswith(".") or not path.is_file():
            continue
        if path.name == "key.json":
            found[str(name)] = json.dumps(json.loads(path.read_text())["key"])
        elif path.name != "state.json":
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def outcome(folder: RunFolder) -> dict[str, object]:
    """All that a run leaves but clocks and memory: numbers of every step, tables, parameters, names of files."""
    facts: dict[str, object] = {"state": folder.status().state}
    for record in read(folder.journal):
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                key = f"{name} at step {record['step']}"
                if key in facts:
                    facts[f"{key}, told again"] = value
                elif not name.startswith("cost/"):
                    facts[key] = value
    for path in sorted(folder.path.rglob("*")):
        name = path.relative_to(folder.path)
        if not name.parts[0].startswith(".") and path.is_file() and path != folder.log:
            in_full = name.parts[0] in ("results", "model")
            facts[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest() if in_full else "there"
    return facts


def differences(whole: dict, other: dict) -> list[str]:
    """What is not equal."""
    return [f"{key}: {whole.get(key)} != {other.get(key)}" for key in whole | other if whole.get(key) != other.get(key)]


class Trial:
    """Lives of one method, against a life that nobody disturbs."""

    def __init__(self, root: Path, method: str) -> None:
        self.root, self.method, self.lives = root, method, 0
        folder = born(root / f"{method}-whole", method)
        efforts = root / f"{method}.json"
        assert fork(folder, efforts=efforts) == 0, folder.log.read_text()
        self.efforts = {n: Effort(**e) for n, e in json.loads(efforts.read_text()).items() if n}
        self.whole, self.cache = outcome(folder), artefacts(root / f"{method}-whole")

    def live(self, kills: int, draw: random.Random) -> Iterator[str]:
        """One life; yields the stage of every kill.

        Raises:
            AssertionError: it does not end like the undisturbed one, or left a broken artefact.
        """
        self.lives += 1
        root = self.root / f"{self.method}-{self.lives}"
        folder = born(root, self.method)
        order = list(STAGES.values())
        for stage in sorted(draw.choices(list(self.efforts), k=kills), key=order.index):
            death = self.death(stage, draw)
            code = fork(folder, death)
            built = artefacts(root)
            assert built.items() <= self.cache.items(), f"killed in {death}: {differences(self.cache, built)}"
            assert code in (0, -signal.SIGKILL), f"after {death}: exit code {code}\n{folder.log.read_text()}"
            if code:
                yield stage
                mark_if_dead(folder)
        assert fork(folder) == 0, folder.log.read_text()
        assert not (wrong := differences(self.whole, outcome(folder))), "\n".join(wrong)
        assert not (wrong := differences(self.cache, artefacts(root))), "\n".join(wrong)
        shutil.rmtree(root)

    def death(self, stage: str, draw: random.Random) -> Death:
        """After a share of what a stage usually takes."""
        usual = self.efforts[stage]
        if draw.random() < 0.5 and usual.changes:
            return Death(stage, Effort(changes=draw.randint(1, usual.changes)))
        return Death(stage, Effort(seconds=max(PERIOD, 0.9 * draw.random() * usual.seconds)))


def trials(kills: int, seed: int, root: Path, methods: tuple[str, ...] = METHODS) -> Counter[str]:
    """Kill so often; how often in each stage.

    Raises:
        AssertionError: a life ended otherwise than it would have undisturbed.
    """
    program.load(SweepConfig.program)
    chitchat.prompts("test", min_words=3, max_words=12)  # reads the chats, which every life would do again
    draw, killed, trials = random.Random(seed), Counter[str](), dict[str, Trial]()
    while killed.total() < kills:
        method = draw.choice(methods)
        trial = trials.get(method) or trials.setdefault(method, Trial(root, method))
        for stage in trial.live(min(draw.randint(1, 8), kills - killed.total()), draw):
            killed[stage] += 1
            lives = sum(trial.lives for trial in trials.values())
            print(f"\r{killed.total()} kills, {lives} lives", end="", file=sys.stderr)
    return killed


def main() -> None:
    """Kill and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        killed = trials(args.kills, args.seed, Path(scratch))
    print(f"\n{killed.total()} kills in {time.monotonic() - begin:.0f} s; every run ended as if undisturbed")
    for stage, count in killed.most_common():
        print(f"  {stage:20} {count}")


if __name__ == "__main__":
    main()
