"""The paper's own settings run from end to end where every hub name is a small look-alike with the same schema."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from robustalign.pipeline.estimate import estimate
from robustalign.policies.load import asset_folder, load_tokenizer
from robustalign.rewards.training import Examples, Recipe, train
from robustalign.run.journal import read
from tests.conftest import compose_config, tiny_gpt2
from tests.pipeline.test_run import metrics, run, targets

WORDS = [
    "i",
    "feel",
    "so",
    "angry",
    "afraid",
    "happy",
    "sad",
    "loved",
    "today",
    "and",
    "nobody",
    "knows",
    "why",
    "it",
    "is",
    "like",
    "this",
    "again",
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2, Saravia et al.'s Emotion and the reward model, small."""
    folder, rng = tmp_path_factory.mktemp("hub"), random.Random(0)
    tokenizer = load_tokenizer(asset_folder("chitchat_tiny"))
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder / "gpt2")
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    tiny_gpt2(vocab_size=len(tokenizer), n_positions=96, initializer_range=0.02, **ids).save_pretrained(folder / "gpt2")
    texts = {
        split: [" ".join(rng.choices(WORDS, k=rng.randint(5, 12))) for _ in range(n)] for split, n in SIZES.items()
    }
    rows = {split: {"text": t, "label": [rng.randrange(6) for _ in t]} for split, t in texts.items()}
    DatasetDict({split: Dataset.from_dict(columns) for split, columns in rows.items()}).save_to_disk(folder / "emotion")
    labels = ["anger", "fear", "joy", "sadness", "love"]
    marks = [[float(word in text) for word in ("angry", "afraid", "happy", "sad", "loved")] for text in texts["train"]]
    examples = Examples(texts["train"], np.array(marks))
    train(Recipe("multi_label", labels, epochs=3, vocabulary=200), examples, examples).save(folder / "reward")
    return folder


SIZES = {"train": 150, "validation": 12, "test": 12}


def test_emotion_alignment(hub: Path, tmp_path: Path) -> None:
    config = compose_config(
        "experiment=emotion_alignment/paper",
        f"model.path={hub / 'gpt2'}",
        f"dataset.path={hub / 'emotion'}",
        *(f"reward.{name}.path={hub / 'reward'}" for name in ("anger", "fear", "joy", "sadness", "love")),
        f"paths.output={tmp_path / 'outputs'}",
        f"paths.cache={tmp_path / 'cache'}",
        "trainer.epochs=2",
        "trainer.warmup_steps=1",
        "trainer.micro_batch_size=16",
        "evaluation.bootstrap=50",
    )
    work = estimate(config)
    assert work is not None and work.tokens["sft"] > 0
    folder = run(config, "paper")
    logged = metrics(folder)
    assert logged[0, "sft/steps"] == 20, "ten epochs in batches of 64"
    assert logged[0, "data/steps"] == int(2 * logged[0, "data/pairs"]) // 64 > 0
    *sampled, tuned = [record for record in read(folder.journal) if record["kind"] == "stage"]
    assert (
        tuned["stage"] == "sft"
        and tuned["values"]["sft/after"] == logged[0, "sft/after"]
        and len(tuned["losses"]) == 20
    )
    assert sorted(record["params"]["split"] for record in sampled) == ["test", "train", "validation"]
    assert {record["params"]["model.sft"] for record in sampled} == {tuned["digest"]}, "sampled from the tuned model"
    assert {"anger_0.0", "anger_1.0"} <= set(targets(folder).query("metric == 'reward'")["target"])
