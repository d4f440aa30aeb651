"""Small models and tokenizers made on the spot, in the formats real ones come in."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import json
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from robustalign.checks import resolve
from robustalign.config import Config, config_dir, register
from robustalign.policies.load import asset_folder, load_tokenizer

torch.set_num_threads(1)


def tiny_llama(dtype: torch.dtype = torch.float32, seed: int = 0, vocabulary: int = 97, **changes) -> LlamaForCausalLM:
    """Two layers, width 16, grouped key-value heads, tied embeddings, weights large enough to matter."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocabulary,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | changes))).to(dtype).eval()


def tiny_gpt2(dtype: torch.dtype = torch.float32, seed: int = 0, **changes) -> GPT2LMHeadModel:
    """Learnt positions and dropout 0.1 unless switched off."""
    torch.manual_seed(seed)
    settings = {"vocab_size": 97, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(**(settings | changes))).to(dtype).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(asset_folder("chitchat_tiny"))


def compose_config(*overrides: str) -> Config:
    """A resolved config as the command line would compose it."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return resolve(compose("config", overrides=list(overrides)))


SMALL = (
    "dataset.train_prompts=24",
    "dataset.validation_prompts=8",
    "dataset.test_prompts=10",
    "dataset.samples=4",
    "dataset.sampling.max_new_tokens=6",
    "dataset.pairs.m=3",
    "dataset.pairs.min_gap=0.0",
    "shift.objectives=[short,joy]",
    "trainer.batch_size=8",
    "trainer.micro_batch_size=8",
    "trainer.max_steps=4",
    "trainer.warmup_steps=1",
    "evaluation.bootstrap=50",
)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artefact cache for the session, so that candidates are sampled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(tmp_path: Path, shared_cache: Path):
    """Compose a config that runs in seconds."""

    def make(*overrides: str) -> Config:
        places = (f"paths.output={tmp_path / 'outputs'}", f"paths.cache={shared_cache}")
        return compose_config(*SMALL, *places, *overrides)

    return make


QUESTIONS = [
    ("how are you today?", [" i am good", " table of the of", " yes"], 0),
    ("do you like dogs?", [" i do", " i love dogs. do you?", " eleven"], 1),
    ("what is the sky?", [" blue", " nothing at all"], 0),
    ("hello", [" hi", " no"], 1),
]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with a task of the LM Evaluation Harness, ``small_talk``."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "small_talk.jsonl"
    rows = [{"input": text, "choices": options, "answer": answer} for text, options, answer in QUESTIONS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {
        "task": "small_talk",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{input}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "small_talk.yaml").write_text(yaml.safe_dump(spec))
    return folder
