"""Runs with known truth, written as the pipeline writes them: folder, journal, results; then imported."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

from robustalign.checks import resolve
from robustalign.config import Config, config_dir, register
from robustalign.evaluation.certificates import RADII, certificate_table, target_table
from robustalign.evaluation.controls import REFERENCE, TRAINED, Control, Kind, at_step, shrunk
from robustalign.evaluation.metrics import WHOLE, Cell
from robustalign.evaluation.targets import evaluate_targets, per_prompt
from robustalign.report.load import Run
from robustalign.run.folder import RunFolder, State
from robustalign.run.journal import Journal, read
from robustalign.shifts import ScorerShift
from robustalign.shifts.preferences import Standards
from robustalign.sweeps.mlflow_sync import SweepImporter
from robustalign.sweeps.sweep import Sweep, plan

# mean reward (ask, joy) and KL after the last step: what a policy is truly worth
TRUTH: Mapping[str, tuple[float, float, float]] = {
    "dpo": (2.17, 0.39, 8.0),
    "dpo_half_rate": (1.95, 0.36, 6.0),
    "kldpo_t1": (2.16, 0.45, 8.0),
    "kldpo_t0.5": (2.16, 0.51, 8.1),
    "kldpo_t0.2": (2.02, 0.46, 8.0),
    "drdpo_t1": (1.42, 0.02, 4.0),
    "wdpo_r0.03": (2.12, 0.38, 7.6),
    "wdpo_r0.1": (1.9, 0.33, 6.0),
    "overlooked": (2.16, 0.75, 8.2),
    "oracle": (2.08, 1.10, 9.0),
}


@dataclass(frozen=True)
class Scene:
    """How many held-out prompts, and how far seeds and prompts scatter."""

    prompts: int = 200
    seed_spread: float = 0.03
    prompt_spread: float = 0.5


def configs(points: Iterable[str], seeds: Iterable[int], output: Path, *overrides: str) -> list[Config]:
    """Real configs of an experiment's points and seeds."""
    seeds, made = list(seeds), []
    for point in points:
        for seed in seeds:
            config = deepcopy(composed(point, *overrides))
            config.paths.output, config.paths.cache, config.seed = str(output), str(output / "cache"), seed
            made.append(config)
    return made


@cache
def composed(point: str, *overrides: str) -> Config:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return resolve(compose("config", ["experiment=demo", f"point={point}", *overrides]))


@cache
def base() -> Config:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return resolve(compose("config"))


def launch(wanted: list[Config], points: Iterable[str], scene: Scene | None = None) -> Sweep:
    """Write finished runs of these configs; ``points`` names the truth of each, in order."""
    sweep, frozen = plan(wanted, base(), command="train.py -m experiment=demo")
    for run, config, point in zip(sweep.runs, frozen, points, strict=True):
        write_run(run.folder, config, TRUTH[point], scene or Scene())
    sweep.save()
    return sweep


def records(sweep: Sweep) -> list[Run]:
    """The runs of a sweep as the report gets them, without a store in between."""
    made = []
    for number, (run, status) in enumerate(sweep.status()):
        last: dict[str, float] = {}
        for record in read(run.folder.journal):
            last |= record.get("values", {}) if record["kind"] == "metrics" else {}
        files = run.folder.path
        config = run.folder.frozen() or {}
        known = {"config": config, "metrics": last, "files": files, "status": str(status.state), "uid": status.uid}
        known["identity"] = run.folder.name
        made.append(Run(run_id=status.uid, name=run.name, sweep=sweep.id, parent=None, started=number, **known))
    return made


def bring(sweep: Sweep) -> None:
    """Import a sweep's journals into its store."""
    SweepImporter(sweep).close()


def write_run(folder: RunFolder, config: Config, truth: tuple[float, float, float], scene: Scene) -> None:
    """A finished run whose policy is worth ``truth``."""
    folder.freeze(config)
    journal = Journal(folder.journal)
    shift = ScorerShift(config.shift, Standards(raw={}))
    results = folder.results
    results.mkdir(exist_ok=True)
    tables, prompts, certificates = [], [], []
    last = config.trainer.max_steps
    for control, share in policies(config):
        for split in config.evaluation.splits:
            own = [config.seed, zlib.crc32(str(config.label).encode()), round(100 * share)]
            cells = draw_cells(shift, truth, share, [config.seed, len(split)], [*own, len(split)], scene)
            options = {"control": control, "split": split, "last_step": last}
            tables.append(evaluate_targets(cells, shift, draws=50, confidence=0.95, **options))
            if control.kind in (Kind.TRAINED, Kind.STEP):
                values = zip(*(tables[-1][column] for column in ("target", "metric", "value")), strict=True)
                journal.metrics(control.step_of(last), {f"eval/{split}/{t}/{m}": float(v) for t, m, v in values})
            prompts.append(per_prompt(cells, **options))
            if (control, split) == (TRAINED, config.evaluation.splits[-1]):
                certificates.append(certify(cells["loss"], shift).assign(split=split))
    pd.concat(tables).to_csv(results / "targets.csv", index=False, float_format="%.10g")
    pd.concat(prompts).to_parquet(results / "prompts.parquet", index=False)
    pd.concat(certificates).to_csv(results / "certificates.csv", index=False, float_format="%.10g")
    names = list(shift.names)
    where = [shift.coordinate(name) for name in names]
    pd.DataFrame({"target": names, "coordinate": where, "flip_rate": 0.1}).to_csv(results / "shift.csv", index=False)
    tell(journal, config, truth)
    journal.close()
    now = time.time()
    folder.set_status(State.FINISHED, started=now - 60, ended=now, step=config.trainer.max_steps)


def policies(config: Config) -> list[tuple[Control, float]]:
    """What a run evaluates, and the share of the way from the reference that each has gone."""
    last = config.trainer.max_steps
    steps = [(at_step(step, last), step / last) for step in config.evaluation.steps if step < last]
    return [(REFERENCE, 0.0), *steps, (TRAINED, 1.0), *((shrunk(c), c) for c in config.evaluation.shrinkage)]


def draw_cells(
    shift: ScorerShift, truth: tuple[float, ...], share: float, seed: list[int], own: list[int], scene: Scene
):
    """Rewards, and margins with their losses, whose expectations follow ``truth`` x ``share``.

    Prompts are hard or easy for all; a ``seed``'s luck is shared by all methods, the rest is a policy's ``own``.
    """
    hard = np.random.default_rng([seed[1], 7]).normal(0, scene.prompt_spread, (2, scene.prompts))
    luck = np.random.default_rng(own)
    offset = np.random.default_rng(seed).normal(0, scene.seed_spread, 2) + luck.normal(0, scene.seed_spread / 2, 2)
    two = np.full(scene.prompts, 2)
    one = np.ones(scene.prompts)
    cells: dict[str, dict[str, Cell]] = {metric: {} for metric in ("loss", "accuracy", "reward")}
    for c, component in enumerate(dict.fromkeys(component.name for component in shift.components)):
        c = min(c, 1)
        reward = share**0.5 * (truth[c] + offset[c] + hard[c]) + luck.normal(0, 0.4, scene.prompts)
        margin = share * (truth[c] + 2 * hard[c] + offset[c] + luck.normal(0, 0.3, scene.prompts))
        cells["loss"][component] = Cell(np.log1p(np.exp(-margin)), one)
        cells["accuracy"][component] = Cell((margin > 0) + 0.5 * (margin == 0), one)
        cells["reward"][component] = Cell(2 * reward, two)
    kl = share**2 * (truth[2] + luck.normal(0, 0.2, scene.prompts))
    cells["kl"] = {WHOLE: Cell(2 * kl, two)}
    return cells


def certify(losses: Mapping[str, Cell], shift: ScorerShift) -> pd.DataFrame:
    """The certificates of the policy and the reference, on one pair a prompt and component."""
    policy = np.concatenate([losses[component.name].total for component in shift.components])
    prompts = len(policy) // len(shift.components)
    laws = {name: shift.shares(name).repeat(prompts) for name in (None, *shift.names)}
    nominal, both = laws.pop(None), {"policy": policy, "reference": np.full(len(policy), np.log(2))}
    prompt, radii = np.tile(np.arange(prompts), len(shift.components)), {ball: RADII[ball] for ball in ("kl", "tv")}
    curves = certificate_table(both, prompt, weight=nominal, radii=radii, draws=3)
    return pd.concat([curves, target_table(both, nominal, laws, balls=tuple(radii))]) if laws else curves


def tell(journal: Journal, config: Config, truth: tuple[float, float, float]) -> None:
    """The metrics that training logs."""
    tilt = config.method.get("temperature") or np.inf
    for step in range(1, config.trainer.max_steps + 1):
        done = step / config.trainer.max_steps
        spread = 0.3 * done / tilt
        values = {
            "train/nominal_loss": 0.69 * np.exp(-2 * done),
            "train/loss": 0.69 * np.exp(-2 * done),
            "train/grad_norm": 1.0 - 0.5 * done,
            "train/rewards/chosen": done,
            "train/rewards/rejected": -done,
            "train/rewards/margins": 2 * done,
            "train/rewards/accuracies": 0.5 + 0.4 * done,
            "robust/ess": 64 / (1 + spread**2),
            "robust/weight_max": np.exp(2 * spread),
            "robust/divergence": spread**2 / 2,
            "cost/step_seconds": 0.4 if config.method["set"] != "wasserstein" else 0.9,
            "cost/memory_bytes": 1.1e9,
        }
        if np.isfinite(tilt):
            values["robust/dual"] = tilt
        journal.metrics(step, {name: float(value) for name, value in values.items()})
    costs = {"cost/seconds/prepare": 3.0, "cost/seconds/train": 32.0, "cost/seconds/evaluate": 10.0}
    journal.metrics(config.trainer.max_steps, costs | {"data/pairs": 5000.0, "data/epochs": 1.0})
