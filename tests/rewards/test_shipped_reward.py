"""The reward that ships knows plain sentences, is small, and is part of what a run is made from."""

from __future__ import annotations

import pytest

from robustalign.errors import ConfigError
from robustalign.pipeline.inputs import scorer
from robustalign.rewards import build_scorer
from robustalign.rewards.shipped import FOLDER, placed
from tests.conftest import compose_config

SENTENCES = {
    "anger": "i hate this, you make me so angry, shut up",
    "fear": "i am so scared and terrified of the dark",
    "joy": "haha that is so funny, i am so happy and excited",
    "sadness": "i am so sad and sorry for your loss",
    "love": "i love you so much, i adore you",
}


def test_each_emotion_is_highest_where_it_is_said(tmp_path) -> None:
    rewards = compose_config("reward=[goemotions]", "shift.objectives=[joy,fear]").reward
    assert list(rewards) == list(SENTENCES)
    texts = list(SENTENCES.values())
    for place, (emotion, spec) in enumerate(rewards.items()):
        made = build_scorer(emotion, spec, tmp_path)
        scores = made.score([""] * len(texts), texts)
        assert made.unit and scores.argmax() == place and scores[place] > 0.5


def test_it_is_small_and_says_where_it_comes_from() -> None:
    folder = FOLDER / "goemotions"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10e6
    card = (folder / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "Demszky et al. 2020" in card and "robustalign reward" in card


def test_its_content_is_in_the_key_of_scores() -> None:
    spec = {"scorer": "classifier", "path": "asset:goemotions", "label": "joy"}
    found = scorer("joy", spec)
    assert set(found["files"]) == {"path"} and "commit" not in found
    assert found["options"] == spec, "no path of this machine"


def test_one_that_does_not_ship_is_refused() -> None:
    with pytest.raises(ValueError, match="path: no shipped reward 'moods'; there are: goemotions"):
        placed("asset:moods")
    with pytest.raises(ConfigError, match=r"reward\.joy\.path: no shipped reward 'moods'"):
        scorer("joy", {"scorer": "classifier", "path": "asset:moods"})
