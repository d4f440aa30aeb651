"""Whole runs, small: the same config gives the same numbers, whatever interrupts them and wherever they are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from safetensors.torch import load_file

from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.pipeline import program
from robustalign.pipeline.checks import check_config
from robustalign.pipeline.estimate import outlook
from robustalign.pipeline.stages import Stages
from robustalign.policies.load import asset_folder, load_model, load_tokenizer
from robustalign.run.folder import RunFolder, Stopped
from robustalign.run.journal import Journal
from tests.conftest import SMALL, compose_config

FAST = ("evaluation.generate=never",)


def run(config: Config, name: str, should_stop=lambda: False) -> RunFolder:
    check_config(config)
    folder = RunFolder(Path(config.paths.output) / name)
    folder.freeze(config)
    program.run(config, folder, Journal(folder.journal), should_stop)
    return folder


def metrics(folder: RunFolder) -> dict[tuple[int, str], float]:
    """Everything journaled but clocks and memory; no (step, name) may appear twice."""
    found: dict[tuple[int, str], float] = {}
    for line in folder.journal.read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                assert (record["step"], name) not in found
                if not name.startswith("cost/"):
                    found[record["step"], name] = value
    return found


def targets(folder: RunFolder) -> pd.DataFrame:
    return pd.read_csv(folder.results / "targets.csv")


@pytest.mark.parametrize("method", ["dpo", "kldpo", "wdpo", "oracle"])
def test_a_run_leaves_a_complete_table(small, method: str) -> None:
    folder = run(small(f"method={method}", "evaluation.shrinkage=[0.5]"), method)
    table = targets(folder)
    assert set(table["control"]) == {"policy", "reference", "shrink_0.5"}
    assert set(table["metric"]) == {"loss", "accuracy", "reward", "kl"}
    assert set(table["split"]) == {"validation", "test"}
    per_target = {"nominal", "worst", "area", *(f"joy_{i / 10:.1f}" for i in range(1, 11))}
    assert set(table.query("metric == 'loss'")["target"]) == per_target
    reference = table.query("control == 'reference'")
    assert np.allclose(reference.query("metric == 'loss'")["value"], np.log(2))
    assert np.allclose(reference.query("metric == 'accuracy'")["value"], 0.5), "a tie counts half"
    assert np.allclose(reference.query("metric == 'kl'")["value"], 0, atol=1e-6)
    assert np.isfinite(table["value"]).all() and (table["low"] <= table["high"]).all()
    assert {step for step, name in metrics(folder) if name == "train/loss"} == {1, 2, 3, 4}
    first = metrics(folder)[1, "train/nominal_loss"]
    assert first == pytest.approx(np.log(2), abs=2e-4), "the first step sees policy = reference"
    assert not folder.checkpoints.exists() and not folder.model.exists()
    told = folder.journal.read_text()
    for stage in ("prepare", "train", "evaluate", "controls"):
        assert f'"cost/seconds/{stage}"' in told and f'"cost/memory_bytes/{stage}"' in told


@pytest.mark.parametrize(("bound", "marked"), [("1e-9", True), ("1e9", False), ("null", False)])
def test_a_policy_far_from_the_reference_is_marked(small, bound: str, marked: bool) -> None:
    folder = run(small(f"evaluation.max_kl={bound}", "trainer.max_steps=2", "trainer.learning_rate=1e-3"), "run")
    assert ('"ran_away": "KL ' in folder.journal.read_text()) is marked


def test_summary_rows_follow_from_the_targets(small) -> None:
    table = targets(run(small(*FAST), "dpo")).query("control == 'policy' and split == 'test'")
    loss = table.query("metric == 'loss'").set_index("target")["value"]
    by_target = loss.drop(["nominal", "worst", "area"])
    assert loss["worst"] == by_target.max() and loss["nominal"] == pytest.approx(by_target["joy_0.1"])
    x = np.arange(10) / 10
    assert loss["area"] == pytest.approx(np.trapezoid(by_target.sort_index(), x) / 0.9)


def test_same_config_same_numbers_in_another_place(small, tmp_path) -> None:
    one = run(small(), "one")
    other = run(small(f"paths.output={tmp_path / 'elsewhere'}"), "two")
    assert metrics(one) == metrics(other)
    pd.testing.assert_frame_equal(targets(one), targets(other))


def test_a_second_run_reuses_every_shared_stage(small) -> None:
    config = small(*FAST)
    run(config, "first")
    stages = Stages(replace(config, seed=5))
    stages.warm()
    built = {event.stage for event in stages.cache.events if not event.reused}
    reused = {event.stage for event in stages.cache.events if event.reused}
    assert not built and reused >= {"candidates", "scores", "reference_logps"}


def test_the_outlook_builds_nothing_and_tells_what_a_run_would(small, tmp_path) -> None:
    config = small(*FAST)
    Stages(config).warm()
    ready = outlook(config)
    assert ready["to_build"] == []
    table = Stages(config).candidates("train").table
    replies = [reply for row in table["reply_ids"] for reply in row]
    prompt, reply = (np.mean([len(ids) for ids in column]) for column in (table["prompt_ids"], replies))
    assert ready["tokens"] == pytest.approx(4 * 8 * 2 * (prompt + reply), rel=1e-3), "4 steps of 8 pairs"
    config.paths.cache = str(tmp_path / "empty")
    empty = outlook(config)
    assert (empty["to_build"], empty["tokens"]) == (["candidates", "scores", "reference_logps"], None)
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("method", ["dpo", "wdpo"])
@pytest.mark.parametrize("stops", [[2], [0, 1, 3]], ids=str)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(small, method: str, stops: list[int]) -> None:
    """Bit-equal parameters, every step once, pairs seen 1.4 times."""
    config = small(f"method={method}", "trainer.save_model=true", "dataset.pairs.limit=23", *FAST)
    whole = run(config, "whole")
    for stop in stops:
        seen = []

        def should_stop(at: int = stop, seen: list = seen) -> bool:
            seen.append(None)  # once before training, then at every step
            return len(seen) == 1 + at - (stops[stops.index(at) - 1] if stops.index(at) else 0)

        with pytest.raises(Stopped):
            run(config, "broken", should_stop)
    broken = run(config, "broken")
    assert metrics(broken) == metrics(whole)
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (broken, whole))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_micro_batches_change_memory_not_results(small) -> None:
    whole, cut = (run(small("method=kldpo", f"trainer.micro_batch_size={m}", *FAST), f"m{m}") for m in (8, 2))
    one, two = metrics(whole), metrics(cut)
    for key in one:
        at_reference = key == (1, "train/rewards/accuracies")  # every margin is rounding
        if key[1].startswith(("train/", "eval/")) and not at_reference:
            assert two[key] == pytest.approx(one[key], rel=2e-4, abs=2e-5), key


def test_training_pairs_have_the_nominal_shares(small) -> None:
    config = small(*FAST)
    folder = run(config, "shares")
    found = metrics(folder)
    pairs = found[0, "data/pairs"]
    assert found[0, "data/share/short"] == pytest.approx(0.9, abs=1 / pairs)
    assert found[0, "data/share/joy"] == pytest.approx(0.1, abs=1 / pairs)


def test_oracle_weights_are_target_over_nominal_share(small) -> None:
    shift = Stages(small("method=oracle")).shift
    assert shift.importance("joy_1.0") == pytest.approx([0, 10])
    assert shift.importance("joy_0.5") == pytest.approx([5 / 9, 5])
    assert shift.importance("joy_0.5") @ shift.shares() == pytest.approx(1)
    mixed = Stages(small("method=oracle", "shift.combine=convex")).shift
    assert mixed.importance("joy_0.5") is None


@pytest.mark.parametrize(
    "shift",
    [
        ("shift=emotion_mixture", "shift.objectives=[joy,short]"),
        ("shift=emotion_mixture", "shift.objectives=[joy,short]", "shift.combine=geometric"),
        ("shift=label_noise",),
        ("shift=none", "dataset.pairs.rule=bradley_terry", "dataset.pairs.temperature=0.5"),
        ("shift.visible=tag", "dataset.validation_prompts=30", "dataset.test_prompts=30"),
        ("shift.visible=natural", "shift.groups=[question,statement]"),
    ],
    ids=" ".join,
)
def test_every_kind_of_shift_runs(small, shift: tuple[str, ...]) -> None:
    overrides = [part for part in SMALL if not any(s.startswith("shift=") for s in shift) or "objectives" not in part]
    config = compose_config(*overrides, *_places(small()), *shift, "trainer.max_steps=2")
    folder = run(config, "shifted")
    certificates = pd.read_csv(folder.results / "certificates.csv")
    of_targets = certificates.dropna(subset=["realised", "value"])
    assert (of_targets["realised"] <= of_targets["value"] + 1e-6).all(), "no target is worse than its certificate"
    table = targets(folder)
    pairs = table.query("metric == 'loss' and target == 'nominal'")
    assert np.isfinite(pairs["value"]).all() and (pairs["n"] > 0).all()


def _places(config: Config) -> tuple[str, str]:
    return f"paths.output={config.paths.output}", f"paths.cache={config.paths.cache}"


def test_hub_formats_from_local_folders(small, tmp_path) -> None:
    """A save_pretrained model with LoRA, and people's comparisons from Dataset.save_to_disk."""
    source = small().model
    load_model(asset_folder("chitchat_tiny"), source).save_pretrained(tmp_path / "model")
    load_tokenizer(asset_folder("chitchat_tiny")).save_pretrained(tmp_path / "model")
    words = ["tea", "coffee", "rain", "snow", "cats", "dogs", "books", "films"]
    rows = {
        "prompt": [f"do you like {a} or {b}?" for a in words for b in words if a != b],
        "chosen": [[{"role": "assistant", "content": a}] for a in words for b in words if a != b],
        "rejected": [[{"role": "assistant", "content": "no idea"}] for a in words for b in words if a != b],
    }
    Dataset.from_dict(rows).save_to_disk(tmp_path / "data")
    config = compose_config(
        "model=pretrained", f"model.path={tmp_path / 'model'}", "model.lora.r=2", "trainer=chitchat_tiny",
        "dataset=preferences", f"dataset.path={tmp_path / 'data'}", "shift=none", "shift.objectives=[human]",
        "trainer.batch_size=4", "trainer.micro_batch_size=2", "trainer.max_steps=3", "trainer.save_model=true",
        "evaluation.bootstrap=20", *_places(small()),
    )  # fmt: skip
    folder = run(config, "hub")
    assert (folder.model / "adapter_model.safetensors").is_file()
    assert set(targets(folder)["metric"]) == {"loss", "accuracy", "kl"}, "nobody can score a new reply"
    assert metrics(folder)[1, "train/rewards/margins"] == pytest.approx(0, abs=1e-4), "fresh adapters are the reference"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("dataset=prompts", "dataset.path=/nowhere/at/all"), r"dataset\.path: .*nowhere"),
        (("model=pretrained", "model.path=/nowhere/at/all"), r"model\.path: .*no folder"),
        (("model.path=asset:nothing",), r"model\.path: no shipped model 'nothing'; there are: chitchat_tiny"),
        (
            ("method=kldpo", "method.temperature=null", "method.radius=5"),
            r"method\.radius: 5 puts all mass on one of 8",
        ),
        (("method=oracle", "method.target=mars"), r"method\.target: no target 'mars'"),
        (("+reward.odd.scorer=nowhere",), r"reward\.odd\.scorer"),
        (("method.beta=-1",), r"method\.beta"),
        (("+method.radios=1",), r"method\.radios: unknown key"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_refused_before_anything_starts(small, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(small(*overrides))


def test_an_empty_data_set_is_refused(small, tmp_path) -> None:
    Dataset.from_dict({"prompt": []}).save_to_disk(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"dataset\.path: .* is empty"):
        check_config(small("dataset=prompts", f"dataset.path={tmp_path / 'empty'}"))


def test_prompts_longer_than_the_model_are_refused_by_name(small) -> None:
    config = small("model.max_length=14", "dataset.min_words=11")
    with pytest.raises(ConfigError, match=r"model\.max_length: 14 is shorter than every prompt"):
        Stages(config).candidates("train")


def test_one_batch_can_be_overfitted(tmp_path, shared_cache) -> None:
    places = (f"paths.output={tmp_path}", f"paths.cache={shared_cache}")
    folder = run(compose_config("debug=overfit_batch", "trainer.max_steps=30", *places), "overfitted")
    losses = [value for (_, name), value in metrics(folder).items() if name == "train/nominal_loss"]
    assert len(losses) == 30 and losses[0] == pytest.approx(np.log(2), abs=1e-5) and losses[-1] < 0.1
