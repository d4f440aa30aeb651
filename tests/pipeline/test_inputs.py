"""What a run is computed from: edits of weights, tokenizer, base, hub, scorer or its files are seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robustalign.errors import ConfigError
from robustalign.pipeline import inputs
from robustalign.pipeline.stages import Stages
from robustalign.policies.load import asset_folder
from tests.conftest import compose_config


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(asset_folder("chitchat_tiny"), tmp_path / "model"))


def config(path: str, tmp_path: Path, *overrides: str):
    return compose_config("model=pretrained", f"model.path={path}", f"paths.cache={tmp_path / 'cache'}", *overrides)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_model_is_its_weights_tokenizer_and_config(checkpoint: Path, tmp_path: Path, name: str) -> None:
    one = config(str(checkpoint), tmp_path)
    before, key = inputs.inputs(one), Stages(one).candidates_key("train")
    assert inputs.inputs(one) == before
    content = bytearray((checkpoint / name).read_bytes())
    content[-2] ^= 1
    (checkpoint / name).write_bytes(content)
    after = inputs.inputs(one)
    assert {what for what in before if before[what] != after[what]} == {"model"}
    assert Stages(one).candidates_key("train") != key


def test_adapters_are_their_base_too(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    shutil.copy(checkpoint / "model.safetensors", folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(checkpoint)}))
    one = config(str(folder), tmp_path)
    before = inputs.inputs(one)
    with open(checkpoint / "model.safetensors", "ab") as file:
        file.write(b"0")
    assert inputs.inputs(one)["model"] != before["model"]


def test_a_hubs_model_is_the_commit_that_its_revision_is_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub's cache as huggingface_hub lays it out: refs/main names the snapshot."""
    hub = tmp_path / "hub" / "models--org--model"
    for commit in ("a" * 40, "b" * 40):
        (hub / "snapshots" / commit).mkdir(parents=True)
        (hub / "snapshots" / commit / "config.json").write_text("{}")
    (hub / "refs").mkdir()
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    one = config("org/model", tmp_path)
    found = []
    for commit in ("a" * 40, "b" * 40):
        (hub / "refs" / "main").write_text(commit)
        inputs._commit.cache_clear()
        assert inputs.model(one) == {"hub": "org/model", "commit": commit}
        found.append(inputs.inputs(one)["model"])
    assert found[0] != found[1]
    inputs._commit.cache_clear()


def test_a_model_that_is_nowhere_is_told_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path: no folder 'org/none' here"):
        inputs.inputs(config("org/none", tmp_path))


SCORER = "import numpy as np\nfrom robustalign.rewards import Scorer\n\n\ndef build(assets, words=''):\n    {}\n"


def test_a_scorer_is_its_code_options_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, words = tmp_path / "tones" / "mine.py", tmp_path / "words.txt"
    module.parent.mkdir()
    module.write_text(SCORER.format("return Scorer(lambda p, r: np.ones(len(r)))"))
    words.write_text("you")
    monkeypatch.syspath_prepend(tmp_path)
    one = compose_config(f"+reward.tone={{scorer: tones.mine, words: {words}}}", f"paths.cache={tmp_path / 'cache'}")
    other = compose_config(f"paths.cache={tmp_path / 'cache'}")
    before = inputs.inputs(one)
    assert before["reward.joy"] == inputs.inputs(other)["reward.joy"]
    words.write_text("your")
    edited = inputs.inputs(one)
    module.write_text(SCORER.format("return Scorer(lambda p, r: -np.ones(len(r)))"))
    corrected = inputs.inputs(one)
    assert before["reward.tone"] != edited["reward.tone"] != corrected["reward.tone"]
    assert {key for key in before if before[key] != corrected[key]} == {"reward.tone"}


def test_scores_are_kept_by_the_code_that_made_them(monkeypatch: pytest.MonkeyPatch) -> None:
    one = compose_config()
    before = Stages(one).scores_key("train")
    monkeypatch.setattr(inputs, "code", lambda name, spec: {"source": "edited"})
    assert Stages(one).scores_key("train") != before
