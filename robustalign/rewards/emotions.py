"""Emotions of a text in [0, 1], from the ``nade`` wheel (MIT): fastText emoji predictions, gradient-boosted trees.

Against human labels (GoEmotions test split) the areas under the curve are joy .77, sadness .79, fear .80,
anger .69. The wheel unpacks its trees beside itself on first use; here they are unpacked once into the cache.
"""

from __future__ import annotations

import gzip
import importlib.util
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np

from robustalign import wheels
from robustalign.bounds import OneOf
from robustalign.errors import ConfigError
from robustalign.rewards import Scorer

EMOTIONS = ("anger", "anticipation", "disgust", "fear", "joy", "sadness", "trust")


def build(assets: Path, emotion: Annotated[str, OneOf(EMOTIONS)]) -> Scorer:
    """``emotion``: anger, anticipation, disgust, fear, joy, sadness or trust."""

    def score(_prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
        return _predict(assets, emotion, tuple(replies))

    return Scorer(score, unit=True)


def prepare(target: Path) -> None:
    """Copy the wheel's model into ``target`` with its trees unpacked.

    Raises:
        ConfigError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("nade")
    if spec is None or spec.origin is None:
        raise ConfigError("reward", f"emotions need the wheel nade; install it with '{wheels.install()}'")
    source = Path(spec.origin).parent / "data" / "socialmedia_en"
    for file in source.iterdir():
        if file.suffix == ".gz":
            with gzip.open(file, "rb") as packed, open(target / file.stem, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        elif file.suffix in (".ftz", ".jsonl"):
            shutil.copy(file, target)


@cache
def _features(assets: Path):
    """fastText emoji confidences, as the wheel computes them."""
    import json

    import fasttext
    from nade import Nade

    class Features(Nade):
        def __init__(self) -> None:
            lines = (assets / "emoji_frequencies.jsonl").read_text(encoding="utf-8").splitlines()
            self.emojis = {row["emoji"]: row["hash"] for row in map(json.loads, lines)}
            self.elookup = {code: emoji for emoji, code in self.emojis.items()}
            self.max_k = len(self.emojis)
            self.tm = fasttext.load_model(str(assets / "nade_250k_hp.ftz"))

    return Features()


@cache
def _trees(assets: Path, emotion: str):
    import lightgbm

    return lightgbm.Booster(model_file=str(assets / f"reg_{emotion}.txt"))


_encoded: dict[tuple[str, ...], np.ndarray] = {}


def _encode(assets: Path, replies: tuple[str, ...]) -> np.ndarray:
    """Features ``[N, 151]``; the last texts are remembered, as every emotion reads the same."""
    if replies not in _encoded:
        _encoded.clear()
        rows, _ = zip(*_features(assets).predict_emojis(list(replies), sort_by_key=True, k=151), strict=True)
        _encoded[replies] = np.array([row.to_numpy(zero_copy_only=False) for row in rows])
    return _encoded[replies]


def _predict(assets: Path, emotion: str, replies: tuple[str, ...]) -> np.ndarray:
    if not replies:
        return np.zeros(0)
    values = _trees(assets, emotion).predict(_encode(assets, replies), num_threads=1)
    return np.round(np.clip(values, 0.0, 1.0), 3)
