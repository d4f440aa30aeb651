"""Rewards say what they should of plain sentences, and refuse what they do not know."""

from __future__ import annotations

import numpy as np
import pytest

from robustalign.errors import ConfigError
from robustalign.rewards import build_scorer, score_all
from robustalign.rewards.emotions import prepare


@pytest.fixture(scope="module")
def emotions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emotions")
    prepare(folder)
    return folder


def test_lexical(tmp_path) -> None:
    replies = ["and you?", "i like tea a lot", "no"]
    rewards = {name: {"scorer": "lexical", "measure": name} for name in ("ask", "short", "long")}
    scores = score_all(rewards, lambda *_: tmp_path, ["hi"] * 3, replies)
    assert scores["ask"].tolist() == [1, 0, 0]
    assert scores["short"].argsort().tolist() == [1, 0, 2]
    np.testing.assert_allclose(scores["long"], -scores["short"])


@pytest.mark.parametrize(
    ("emotion", "high", "low"),
    [
        ("joy", "i feel so happy and grateful today", "i feel so lonely and heartbroken since she left"),
        ("sadness", "i feel so lonely and heartbroken since she left", "i can't wait for christmas morning"),
        ("anger", "i am furious at my boss, he is a liar", "the meeting starts at ten in room four"),
        ("fear", "i am terrified of walking home in the dark", "i feel so happy and grateful today"),
    ],
)
def test_emotions_know_plain_sentences(emotions, emotion: str, high: str, low: str) -> None:
    scorer = build_scorer(emotion, {"scorer": "emotions", "emotion": emotion}, emotions)
    up, down = scorer.score(["", ""], [high, low])
    assert scorer.unit and 0 <= down < up - 0.3 <= 1


def test_the_wheel_itself_gives_the_same_numbers(emotions) -> None:
    """Our unpacked copy against the package's own entry point."""
    from nade import Nade

    texts = ["i feel so happy and grateful today", "he is a liar", "that's great!!", "x"]
    expected = np.array(Nade().predict(texts)["joy"].to_pylist())
    found = build_scorer("joy", {"scorer": "emotions", "emotion": "joy"}, emotions).score([""] * 4, texts)
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, r"reward\.x\.scorer: is missing"),
        ({"scorer": "nowhere"}, r"reward\.x\.scorer: 'nowhere': no such module"),
        (
            {"scorer": "lexical", "measure": "odd"},
            r"reward\.x\.measure: .* one of: ask, long, short",
        ),
        ({"scorer": "lexical", "mesure": "ask"}, r"reward\.x\.mesure: unknown option; known: measure"),
        ({"scorer": "json"}, r"no such module"),
        ({"scorer": "os.path"}, r"has no function build"),
    ],
)
def test_bad_rewards_are_named(tmp_path, spec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scorer("x", spec, tmp_path)
