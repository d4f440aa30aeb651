"""The stages that runs share, each an artefact addressed by what it depends on.

model → candidates → scores → reference log-probabilities. Pairs follow from them in milliseconds and
are drawn in the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from robustalign.cache import ArtefactCache
from robustalign.config import HUMAN, Config, SamplingConfig
from robustalign.data.candidates import (
    Candidates,
    prompt_texts,
    sample_candidates,
    sample_candidates_share,
    split_key,
    split_rows,
)
from robustalign.data.given import carried_columns, given_candidates
from robustalign.data.ragged import Chosen, Lists
from robustalign.data.rows import Rows
from robustalign.data.splits import SPLITS
from robustalign.errors import ConfigError
from robustalign.evaluation.metrics import WHOLE
from robustalign.pipeline import fine_tuned, inputs
from robustalign.policies.encode import Encoder
from robustalign.policies.load import (
    asset_folder,
    convert_wheel,
    load_model,
    load_policy,
    load_tokenizer,
    run_model,
)
from robustalign.policies.logprobs import score_completions
from robustalign.policies.save import is_adapter, merge
from robustalign.policies.unfinished import Unfinished
from robustalign.rewards import build_scorer, score_all, scorer_module
from robustalign.shifts import Component, ScorerShift, Shift, Standards
from robustalign.shifts.columns import column_shift
from robustalign.training import distributed


class Stages:
    """The shared artefacts of a config, built on first use and reused by every run in the same cache."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cache = ArtefactCache(Path(config.paths.cache))

    @cached_property
    def model_path(self) -> str:
        """What transformers loads: a folder, or a hub id."""
        if not self.config.model.sft.epochs:
            return self.base_path
        key, where = fine_tuned.key(self.config), device(self.config)
        return str(
            self.cache.get(
                "sft", key, lambda out: fine_tuned.build(self.base_path, self.config, self.texts, where, out)
            )
        )

    @cached_property
    def base_path(self) -> str:
        """The same of the model that ``model.path`` names."""
        kind, _, name = self.config.model.path.partition(":")
        if kind == "asset":
            return str(asset_folder(name))
        if kind == "wheel":
            return str(self.cache.get("model", inputs.wheel(name), lambda out: convert_wheel(name, out)))
        path = self.config.model.path
        if kind == "run":
            path = str(run_model(name, Path(self.config.paths.output)))
        if is_adapter(Path(path)):  # training starts from the base with the adapters merged
            key = {"merged": inputs.model(self.config)}
            return str(self.cache.get("model", key, lambda out: merge(Path(path), out)))
        return path

    @cached_property
    def model_key(self) -> dict[str, Any]:
        """The key of the model: all that its outputs depend on."""
        model = self.config.model
        key = {"weights": inputs.model(self.config), "dtype": model.dtype, "attention": model.attention}
        if model.quantization is not None:
            key |= {"quantization": model.quantization}
        return key | {"sft": fine_tuned.key(self.config)} if model.sft.epochs else key

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.model_path, self.config.model.revision)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.tokenizer, self.config.model.system_prompt)

    def new_model(self) -> PreTrainedModel:
        """A fresh copy of the reference, on the run's device."""
        return load_model(self.model_path, self.config.model, device(self.config))

    @cached_property
    def reference(self) -> PreTrainedModel:
        model = self.new_model()
        return model.requires_grad_(False)

    @cached_property
    def rows(self) -> Rows:
        """The rows of a table of prompts or comparisons, in splits."""
        return split_rows(self.config, self.cache)

    @property
    def texts(self) -> Rows | None:
        """The same where prompts come from a table; None of chit-chat."""
        return None if self.config.dataset.source == "chitchat" else self.rows

    def candidates_key(self, split: str) -> dict[str, Any]:
        return {"version": 5, "model": self.model_key, **split_key(self.config, split)}

    def candidates_folder(self, split: str) -> Path:
        key = self.candidates_key(split)
        unfinished = self._unfinished(key)

        def build(target: Path) -> None:
            if self.config.dataset.source == "preferences":
                given_candidates(self.config, split, self.encoder, self.rows, target)
            else:
                sample_candidates(self.config, split, self.reference, self.encoder, self.texts, target, unfinished)

        folder = self.cache.get("candidates", key, build)
        unfinished.remove()
        return folder

    def _unfinished(self, key: Mapping[str, Any]) -> Unfinished:
        """Replies drawn for candidates of a key that are not built yet."""
        folder = self.cache.path("candidates", key)
        return Unfinished(folder.with_name(f"{folder.name}.unfinished"), rank=distributed.rank())

    def sample_in_shares(self) -> None:
        """Where several ranks train together, each draws its share of the candidates that are not built yet."""
        if distributed.world() == 1 or self.config.dataset.source == "preferences":
            return
        with distributed.leader_first():
            reference, encoder, rows = self.reference, self.encoder, self.texts
        for split in splits(self.config):
            key = self.candidates_key(split)
            if not self.cache.has("candidates", key):
                share = self._unfinished(key), distributed.rank(), distributed.world()
                sample_candidates_share(self.config, split, reference, encoder, rows, *share)
        distributed.barrier()

    def scores_key(self, split: str) -> dict[str, Any]:
        human, memory = self.config.dataset.source == "preferences", inputs.memory(self.config)
        rewards_of_run = inputs.used_rewards(self.config)
        rewards = {name: inputs.scorer(name, spec, memory) for name, spec in rewards_of_run.items()}
        candidates = self.cache.path("candidates", self.candidates_key(split)).name
        return {"version": 2, "candidates": candidates, "rewards": rewards, "human": human}

    def scores_folder(self, split: str) -> Path:
        folder, key = self.candidates_folder(split), self.scores_key(split)

        def build(target: Path) -> None:
            table = load_from_disk(folder)
            flat = self._scores(table) if inputs.used_rewards(self.config) else {}
            if key["human"]:
                flat[HUMAN] = np.tile([1.0, 0.0], len(table))
            save_file({name: v.reshape(len(table), -1) for name, v in flat.items()}, target / "scores.safetensors")

        return self.cache.get("scores", key, build)

    def _scores(self, table: Dataset) -> dict[str, np.ndarray]:
        """Raw scores ``{objective: [P x n]}`` of every reply of a table of candidates."""
        replies = table["replies"][:]
        prompts = [text for text, row in zip(prompt_texts(table), replies, strict=True) for _ in row]
        flat = [reply for row in replies for reply in row]
        return score_all(inputs.used_rewards(self.config), self.reward_assets, prompts, flat)

    def reference_key(self, split: str) -> dict[str, Any]:
        candidates = self.cache.path("candidates", self.candidates_key(split)).name
        return {"version": 1, "candidates": candidates, "model": self.model_key}

    def reference_folder(self, split: str) -> Path:
        folder = self.candidates_folder(split)

        def build(target: Path) -> None:
            table = load_from_disk(folder)
            ids, replies = Lists.of(table, "prompt_ids"), Lists.of(table, "reply_ids")
            logps = score_completions(
                self.reference,
                Chosen(ids, np.repeat(np.arange(len(ids)), replies.lengths)),
                replies.inner(),
                pad=self.tokenizer.pad_token_id,
                batch_size=self.config.evaluation.batch_size,
                progress=f"reference log-probs, {split}",
            )
            save_file({"logps": logps.numpy().reshape(len(ids), -1)}, target / "logps.safetensors")

        return self.cache.get("reference_logps", self.reference_key(split), build)

    def candidates(self, split: str) -> Candidates:
        """A split's prompts, replies, scores and reference log-probabilities."""
        return Candidates(
            table=load_from_disk(self.candidates_folder(split)),
            scores=load_file(self.scores_folder(split) / "scores.safetensors"),
            reference_logps=load_file(self.reference_folder(split) / "logps.safetensors")["logps"],
        )

    def unscored(self, split: str) -> Candidates:
        """The same without the reference's log-probabilities, where nothing is trained or measured on them."""
        table = load_from_disk(self.candidates_folder(split))
        scores = load_file(self.scores_folder(split) / "scores.safetensors")
        return Candidates(table, scores, np.full(next(iter(scores.values())).shape, np.nan, dtype=np.float32))

    def policy(self, path: str) -> PreTrainedModel:
        """The policy that ``method.policy`` names."""
        return load_policy(inputs.policy_path(path, self.config), self.new_model(), self.config.model)

    def score(self, prompts: Sequence[str], replies: Sequence[str]) -> dict[str, np.ndarray]:
        """Raw scores of replies under the objectives of the shift, except for people's choice."""
        objectives = {name.removeprefix("-") for name in self.config.shift.objectives}
        rewards = {name: spec for name, spec in self.config.reward.items() if name in objectives}
        return score_all(rewards, self.reward_assets, prompts, replies)

    def reward_assets(self, scorer: str, module: ModuleType) -> Path:
        """The folder a scorer prepared for itself, once for all runs."""
        if not hasattr(module, "prepare"):
            return self.cache.root
        key = {"scorer": scorer, "version": 2, "code": inputs.code(scorer, {"scorer": scorer})}
        return self.cache.get("reward_assets", key, module.prepare)

    @cached_property
    def shift(self) -> Shift:
        """The shift; what scorers say is standardised by the training candidates alone."""
        config = self.config.shift
        if config.kind == "scorers":
            return ScorerShift(config, self.standards())
        columns = {
            split: carried_columns(load_from_disk(self.candidates_folder(split))) for split in splits(self.config)
        }
        people = column_shift(config, columns, self.config.evaluation.splits)
        if not config.objectives:
            return people
        equal = tuple(1 / len(config.objectives) for _ in config.objectives)
        return replace(
            people, judge=Component(WHOLE, tuple(config.objectives), equal, "convex", config.floor, self.standards())
        )

    def standards(self) -> Standards:
        """The training candidates' scores."""
        scores = load_file(self.scores_folder("train") / "scores.safetensors")
        scorers = {
            name: build_scorer(name, spec, self.reward_assets(spec["scorer"], scorer_module(name, spec)))
            for name, spec in self.config.reward.items()
            if name in scores
        }
        unit = {name for name, scorer in scorers.items() if scorer.unit} | {HUMAN}
        return Standards({name: values.ravel() for name, values in scores.items()}, frozenset(unit))

    def to_build(self) -> list[str]:
        """The stages that have something to build for this config. Nothing is built."""
        kind, _, name = self.config.model.path.partition(":")
        if kind == "wheel" and not self.cache.has("model", inputs.wheel(name)):
            return ["model", *KEYS]
        if self.config.model.sft.epochs and not self.cache.has("sft", fine_tuned.key(self.config)):
            return ["sft", *KEYS]
        has = {
            stage: all(self.cache.has(stage, key(self, split)) for split in splits(self.config))
            for stage, key in KEYS.items()
        }
        return [stage for stage, there in has.items() if not there]

    def pair_tokens(self) -> float | None:
        """Tokens of a prompt with two of its replies, on average over the training candidates; None without any."""
        if not self.cache.has("candidates", self.candidates_key("train")):
            return None
        table = load_from_disk(self.candidates_folder("train"))
        prompts, replies = Lists.of(table, "prompt_ids").lengths, Lists.of(table, "reply_ids")
        of_prompt = np.repeat(1 / replies.lengths, replies.lengths)  # each prompt counts once, however many replies
        return float(2 * np.mean(prompts) + 2 * np.sum(of_prompt * replies.inner().lengths) / len(prompts))

    def warm(self) -> None:
        """Build everything that runs share."""
        for split in splits(self.config):
            trained = split != "train" or self.config.method.get("policy") is None
            self.candidates(split) if trained else self.unscored(split)


KEYS: dict[str, Callable[[Stages, str], dict[str, Any]]] = {
    "candidates": Stages.candidates_key,
    "scores": Stages.scores_key,
    "reference_logps": Stages.reference_key,
}


def splits(config: Config) -> list[str]:
    """The splits a run touches."""
    return [split for split in SPLITS if split == "train" or split in config.evaluation.splits]


def shared_key(config: Config) -> str:
    """A key that two configs have in common if they share all artefacts; no model is loaded."""
    parts: dict[str, Any] = {split: split_key(config, split) for split in splits(config)}
    parts |= {"model": vars(config.model) | {"lora": None}, "reward": config.reward, "cache": config.paths.cache}
    return digest(parts)[:16]


def evaluation_sampling(config: Config) -> SamplingConfig:
    """How replies to held-out prompts are drawn."""
    sampling, temperature = config.dataset.sampling, config.evaluation.temperature
    return sampling if temperature is None else replace(sampling, temperature=temperature)


def digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def device(config: Config) -> torch.device:
    """The device a run computes on."""
    name = config.trainer.device
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device", "no CUDA device is visible; use trainer.device=cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
