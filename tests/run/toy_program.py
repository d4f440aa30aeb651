"""A line of stages that needs neither torch nor data, for tests of what is around it."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustalign.cache import ArtefactCache
from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.run.folder import RunFolder, Stopped
from robustalign.run.journal import Journal


def check_config(config: Config) -> None:
    if float(config.method.get("radius") or 0) < 0:
        raise ConfigError("method.radius", f"{config.method['radius']} is below 0")


def shared_key(config: Config) -> str:
    return json.dumps([config.model.name, config.dataset.seed])


def inputs(config: Config) -> dict[str, str]:
    watched = config.method.get("watch")
    return {"numbers": "always", **({"data": Path(watched).read_text()} if watched else {})}


def outlook(config: Config) -> dict[str, Any]:
    built = ArtefactCache(Path(config.paths.cache)).has("numbers", {"seed": config.dataset.seed})
    return {"to_build": [] if built else ["numbers"], "tokens": 1000 if built else None}


def warm(config: Config) -> None:
    _numbers(config)


def run(config: Config, folder: RunFolder, journal: Journal, should_stop: Callable[[], bool]) -> None:
    numbers = json.loads((_numbers(config) / "numbers.json").read_text())
    journal.dataset("numbers", "f" * 20, "training", len(numbers))
    total, start = _resume(folder)
    for step in range(start + 1, config.trainer.max_steps + 1):
        _suffer(config, folder, step)
        total += numbers[(step + config.seed) % len(numbers)] * config.trainer.learning_rate
        journal.metrics(step, {"train/loss": total, "train/wall": time.time()})
        folder.set_status(step=step)
        if config.trainer.save_steps and step % config.trainer.save_steps == 0:
            _save(folder, journal, total, step)
        if should_stop() and step < config.trainer.max_steps:
            _save(folder, journal, total, step)
            raise Stopped
    folder.results.mkdir(exist_ok=True)
    (folder.results / "final.json").write_text(json.dumps({"total": total}))
    journal.metrics(config.trainer.max_steps, {"eval/final": total})


def _numbers(config: Config) -> Path:
    def build(folder: Path) -> None:
        draw = random.Random(config.dataset.seed)
        (folder / "numbers.json").write_text(json.dumps([draw.random() for _ in range(100)]))
        with open(Path(config.paths.cache) / "builds.txt", "a") as log:
            log.write("built\n")

    return ArtefactCache(Path(config.paths.cache)).get("numbers", {"seed": config.dataset.seed}, build)


def _suffer(config: Config, folder: RunFolder, step: int) -> None:
    """What the method's keys ask for: raise, die (once or always), be asked to stop, or take time."""
    method = config.method
    if step == 1 and "show" in method:
        print(f"{method['show']}={os.environ.get(method['show'])}", flush=True)
    if step == method.get("stop_at"):
        os.kill(os.getpid(), signal.SIGTERM)
    if step == method.get("raise_at") or (step == 5 and config.seed in method.get("raise_seeds", [])):
        raise ValueError(f"asked to raise\nat step {step}")
    died = folder.path / "died"
    if step == method.get("die_at") and (method.get("die_always") or not died.exists()):
        died.touch()
        os.kill(os.getpid(), 9)
    time.sleep(float(method.get("pause", 0)))


def _save(folder: RunFolder, journal: Journal, total: float, step: int) -> None:
    journal.sync()
    folder.checkpoints.mkdir(exist_ok=True)
    scratch = folder.checkpoints / "scratch"
    scratch.write_text(json.dumps([total, step]))
    os.replace(scratch, folder.checkpoints / "last.json")


def _resume(folder: RunFolder) -> tuple[float, int]:
    last = folder.checkpoints / "last.json"
    total, step = json.loads(last.read_text()) if last.exists() else (0.0, 0)
    return total, step
