"""The configs of many jobs are those that Hydra would compose one by one, made with far less work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from robustalign.checks import resolve
from robustalign.config import config_dir, register
from robustalign.errors import ConfigError
from robustalign.sweeps.compose import Composer

SWEEPS = {
    "values": [f"method=kldpo method.temperature={t} seed={s}" for t in (0.5, 1, 2.0) for s in (0, 1)],
    "another type of number": [f"trainer.learning_rate={rate}" for rate in ("1", "1e-3", "0.5")],
    "text and numbers": [f"label={label}" for label in ("null", "a", "1", "true", "'x y'", "'a,b'")],
    "lists": [f"evaluation.steps={steps}" for steps in ("[]", "[1]", "[1,2]")],
    "a number or a list": [f"shift.nominal={a}" for a in ("0.8", "[0.7,0.3]", "0.6", "[0.5,0.5]")],
    "appended keys": [f"+method.radius={r} method.temperature=null method=kldpo" for r in (0.1, 0.2)],
    "forced keys": [f"++method.beta={b} ++method.scope=batch" for b in (0.1, 0.2)],
    "dicts that are merged": [f"+shift.targets={{half: {a}}} seed={s}" for a in (0.5, 0.4) for s in (0, 1)],
    "dicts that differ in keys": ["+shift.targets={a: 0.5}", "+shift.targets={b: 0.5}", "+shift.targets={a: 0.2}"],
    "a key below a dict": [f"+shift.targets={{a: 0.5}} shift.targets.a={a}" for a in (0.1, 0.2)],
    "a dict over a key below it": [f"+shift.targets.a={a} ++shift.targets={{a: 0.5}}" for a in (0.1, 0.2)],
    "the same key twice": [f"seed={a} seed={b}" for a, b in ((1, 2), (3, 4), (4, 3))],
    "deletions": ["~method.oracle seed=0", "~method.oracle seed=1", "seed=2"],
    "deleted and set again": [f"~method.beta +method.beta={b}" for b in (0.1, 0.2)],
    "set and deleted": [f"+method.temperature={t} ~method.temperature" for t in (1, 2)],
    "interpolations": [
        f"trainer.micro_batch_size=8 trainer.batch_size=${{trainer.micro_batch_size}} seed={s}" for s in (0, 1)
    ],
    "a value that others refer to": [
        f"trainer.batch_size=${{trainer.micro_batch_size}} trainer.micro_batch_size={m}" for m in (4, 8, 16)
    ],
    "a value far below a reference": [f"dataset=prompts dataset.path=a/{name} seed=1" for name in ("x", "y")],
    "resolvers": [f"label=${{oc.env:HOME}} seed={s}" for s in (0, 1)],
    "relative references": [f"trainer.batch_size=${{.micro_batch_size}} trainer.micro_batch_size={m}" for m in (4, 8)],
    "groups": [f"method={m} model={o} seed={s}" for m in ("dpo", "wdpo") for o in ("chitchat_tiny",) for s in (0, 1)],
    "points": [f"point={p} seed={s} trainer.max_steps=5" for p in ("dpo", "kldpo_t0.5", "wdpo_r0.1") for s in (0, 1)],
    "an experiment": [f"experiment=label_noise seed={s}" for s in (0, 1)],
    "wrong types": [f"trainer.max_steps={n}" for n in ("3", "many", "4", "1.5", "[1]", "null", "5")],
    "unknown keys": ["seed=1", "trainer.max_stepz=1", "method.nothing=1", "+method.beta=1", "~nothing", "+new=1"],
    "values that cannot run": [f"method=kldpo method.temperature={t}" for t in ("1", "-1", "2", ".nan", "inf")],
    "missing values": ["dataset=prompts", "dataset=prompts dataset.path=a/b", "model.name=???"],
    "the place of results": [f"paths.output={place} seed={s}" for place in ("one", "'a b'") for s in (0, 1)],
}


@pytest.fixture
def loader(tmp_path, monkeypatch) -> Iterator:
    monkeypatch.chdir(tmp_path)
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def outcome(make, words: Sequence[str]):
    try:
        return make(words)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", SWEEPS)
def test_each_config_is_the_one_that_hydra_makes(loader, name):
    master = loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)
    composer = Composer(loader, master)

    def by_hydra(words: Sequence[str]):
        return resolve(loader.load_sweep_config(master, list(words)))

    jobs = [line.split(" ") if "'" not in line else quoted(line) for line in SWEEPS[name]]
    expected = [outcome(by_hydra, words) for words in jobs]
    assert [outcome(composer.config, words) for words in jobs] == expected
    assert [outcome(composer.config, words) for words in reversed(jobs)] == expected[::-1]


def quoted(line: str) -> list[str]:
    """Words at blanks outside of quotes, which stay."""
    import re

    return re.findall(r"(?:'[^']*'|\S)+", line)


def test_no_two_configs_share_what_can_be_changed(loader):
    composer = Composer(loader, loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN))
    first, second = (composer.config(["evaluation.steps=[1,2]", f"seed={seed}"]) for seed in (0, 0))
    first.evaluation.steps.append(3)
    first.method["beta"] = 7.0
    first.shift.targets.clear()
    assert second.evaluation.steps == [1, 2] and second.method["beta"] != 7.0 and second.shift.targets


def test_hydra_composes_once_for_each_choice_of_groups(loader, monkeypatch):
    composer = Composer(loader, loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN))
    composed, applied = [], []
    compose, apply = loader.load_sweep_config, loader._apply_overrides_to_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: composed.append(a) or compose(*a))
    monkeypatch.setattr(loader, "_apply_overrides_to_config", lambda *a: applied.append(a) or apply(*a))
    jobs = [
        (f"method={m}", f"method.beta={b}", f"seed={s}") for m in ("dpo", "wdpo") for b in (0.1, 1) for s in range(30)
    ]
    assert len({str(composer.config(words)) for words in jobs}) == 120
    assert len(composed) == 2
    assert len(applied) <= 2 * 2 + 2  # Hydra applies a choice of groups by the same function
