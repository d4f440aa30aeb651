"""What a config must satisfy before anything starts: types are the schema's business, meaning is checked here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robustalign.config import (
    COMBINE,
    GENERATE,
    HUMAN,
    PARALLEL,
    QUANTIZATION,
    RESERVED_TARGETS,
    RETRY,
    RULES,
    SCHEDULES,
    SOURCES,
    TRACKERS,
    VISIBLE,
    Config,
    ShiftConfig,
    TrainerConfig,
)
from robustalign.errors import ConfigError, choices
from robustalign.names import check_stored


def resolve(composed: DictConfig) -> Config:
    """A composed config as checked dataclasses, with absolute paths.

    Raises:
        ConfigError: a key is missing, has a value that cannot run, or contradicts another.
    """
    bare = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        # through plain containers: a key that +key=value added to a schema node is refused, not dropped
        plain = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except OmegaConfBaseException as error:
        raise ConfigError(error.full_key or "config", str(error).splitlines()[0]) from error
    assert isinstance(config, Config)
    config.shift.nominal = weights(config.shift.nominal, "shift.nominal", config.shift)
    config.shift.targets = {
        name: weights(value, f"shift.targets.{name}", config.shift) for name, value in config.shift.targets.items()
    }
    config.paths.output = str(Path(config.paths.output).expanduser().absolute())
    config.paths.cache = str(Path(config.paths.cache).expanduser().absolute())
    for check in (_check_model, _check_dataset, _check_shift, _check_trainer, _check_evaluation, _check_places):
        check(config)
    return config


def weights(value: Any, key: str, shift: ShiftConfig) -> list[float]:
    """Mixture weights, one per objective: a list, or a number ``a`` for ``[a, 1 - a]`` of two.

    Raises:
        ConfigError: wrong length, a weight outside [0, 1], or a sum other than 1.
    """
    count = len(shift.objectives)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if count == 1 and value == 1:
            value = [1.0]
        elif count != 2:
            raise ConfigError(key, f"a single number needs two objectives, shift.objectives has {count}; give a list")
        else:
            value = [float(value), 1.0 - float(value)]
    if not isinstance(value, list) or not all(isinstance(w, int | float) for w in value):
        raise ConfigError(key, f"{value!r} is not a number or a list of numbers")
    if len(value) != count:
        raise ConfigError(key, f"has {len(value)} weights for {count} objectives ({', '.join(shift.objectives)})")
    if not all(0 <= w <= 1 for w in value):
        raise ConfigError(key, f"{value} has a weight outside [0, 1]")
    if not math.isclose(sum(value), 1.0, abs_tol=1e-6):
        raise ConfigError(key, f"{value} sums to {sum(value):g}; weights must sum to 1")
    return [float(w) for w in value]


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(key, f"unknown value {value!r}; choose one of: {choices(allowed)}")


def _at_least(key: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise ConfigError(key, f"{value} is below {bound:g}")


def _above(key: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ConfigError(key, f"{value} must be > {bound:g}")


def _check_model(config: Config) -> None:
    model = config.model
    _one_of("model.dtype", model.dtype, ("float32", "bfloat16"))
    _one_of("model.attention", model.attention, ("sdpa", "eager", "flash_attention_2"))
    _at_least("model.lora.r", model.lora.r, 0)
    _at_least("model.lora.alpha", model.lora.alpha, 1)
    _check_adapters(config)
    room = model.max_length - config.dataset.sampling.max_new_tokens
    if config.dataset.source != "preferences" and room < 8:
        raise ConfigError(
            "model.max_length",
            f"{model.max_length} leaves {room} tokens for a prompt beside "
            f"dataset.sampling.max_new_tokens={config.dataset.sampling.max_new_tokens}; raise it",
        )
    _at_least("model.max_length", model.max_length, 2)


def _check_adapters(config: Config) -> None:
    lora, quantization = config.model.lora, config.model.quantization
    for key in ("modules_to_save", "use_rslora", "use_dora"):
        if getattr(lora, key) and lora.r == 0:
            raise ConfigError(f"model.lora.{key}", "means nothing without adapters; set model.lora.r")
    if quantization is None:
        return
    _one_of("model.quantization", quantization, QUANTIZATION)
    if lora.r == 0:
        raise ConfigError("model.quantization", "a quantised base cannot be trained itself; set model.lora.r")
    if config.trainer.parallel == "fsdp":
        raise ConfigError("model.quantization", "fsdp shards no quantised base; take trainer.parallel=ddp")


def _check_dataset(config: Config) -> None:
    dataset, pairs = config.dataset, config.dataset.pairs
    _one_of("dataset.source", dataset.source, SOURCES)
    _one_of("dataset.pairs.rule", pairs.rule, RULES)
    if dataset.source != "chitchat" and not dataset.path:
        raise ConfigError("dataset.path", f"dataset.source={dataset.source} needs a hub id or a folder")
    for split in ("train", "validation", "test"):
        _at_least(f"dataset.{split}_prompts", getattr(dataset, f"{split}_prompts"), 1)
    _at_least("dataset.samples", dataset.samples, 2)
    if not 1 <= dataset.min_words <= dataset.max_words:
        raise ConfigError("dataset.max_words", f"{dataset.max_words} is below dataset.min_words={dataset.min_words}")
    _above("dataset.pairs.temperature", pairs.temperature, 0)
    _at_least("dataset.pairs.min_gap", pairs.min_gap, 0)
    _at_least("dataset.pairs.per_prompt", pairs.per_prompt, 1)
    if pairs.limit is not None:
        _at_least("dataset.pairs.limit", pairs.limit, 1)
    if pairs.rule == "best_worst" and not 2 <= pairs.m <= dataset.samples:
        raise ConfigError("dataset.pairs.m", f"{pairs.m} is outside [2, dataset.samples={dataset.samples}]")
    _above("dataset.sampling.temperature", dataset.sampling.temperature, 0)
    _at_least("dataset.sampling.top_k", dataset.sampling.top_k, 0)
    _at_least("dataset.sampling.max_new_tokens", dataset.sampling.max_new_tokens, 1)
    if not 0 < dataset.sampling.top_p <= 1:
        raise ConfigError("dataset.sampling.top_p", f"{dataset.sampling.top_p} is outside (0, 1]")


def _check_shift(config: Config) -> None:
    shift = config.shift
    _one_of("shift.combine", shift.combine, COMBINE)
    _one_of("shift.visible", shift.visible, VISIBLE)
    if not shift.objectives:
        raise ConfigError("shift.objectives", "is empty; name at least one reward")
    if len(set(shift.objectives)) != len(shift.objectives):
        raise ConfigError("shift.objectives", f"{shift.objectives} names one twice")
    known = [*config.reward, HUMAN] if config.dataset.source == "preferences" else list(config.reward)
    for name in shift.objectives:
        if name.removeprefix("-") not in known:
            raise ConfigError("shift.objectives", f"no reward {name!r}; the reward group has: {choices(known)}")
    for name in sorted(RESERVED_TARGETS & set(shift.targets)):
        raise ConfigError(f"shift.targets.{name}", "this name is kept for a summary; choose another")
    check_stored("shift.targets", shift.targets)
    check_stored("reward", config.reward)
    if not 0 < shift.floor < 1:
        raise ConfigError("shift.floor", f"{shift.floor} is outside (0, 1)")
    if shift.visible != "false" and shift.combine != "population":
        raise ConfigError("shift.visible", f"{shift.visible!r} needs shift.combine=population, not {shift.combine}")
    if shift.visible == "natural" and len(shift.groups) != len(shift.objectives):
        raise ConfigError("shift.groups", f"natural visibility needs one prompt group for each of {shift.objectives}")
    if shift.combine == "geometric" and any(name.startswith("-") for name in shift.objectives):
        raise ConfigError("shift.objectives", "a negated objective has no geometric mean; use shift.combine=convex")


def _check_trainer(config: Config) -> None:
    trainer = config.trainer
    _one_of("trainer.schedule", trainer.schedule, SCHEDULES)
    _one_of("trainer.device", trainer.device, ("auto", "cpu", "cuda"))
    _one_of("trainer.parallel", trainer.parallel, PARALLEL)
    for key in ("batch_size", "micro_batch_size", "max_steps", "save_total_limit", "log_steps", "nproc"):
        _at_least(f"trainer.{key}", getattr(trainer, key), 1)
    for key in ("warmup_steps", "save_steps", "threads", "weight_decay", "final_lr_ratio"):
        _at_least(f"trainer.{key}", getattr(trainer, key), 0)
    _above("trainer.learning_rate", trainer.learning_rate, 0)
    check_ranks(trainer, trainer.nproc)


def check_ranks(trainer: TrainerConfig, ranks: int) -> None:
    """Refuse a batch that cannot be cut into equal micro-batches for so many ranks.

    Raises:
        ConfigError: with the numbers.
    """
    if trainer.batch_size % (trainer.micro_batch_size * ranks):
        among = f" times {ranks} ranks" if ranks > 1 else ""
        raise ConfigError(
            "trainer.micro_batch_size",
            f"{trainer.micro_batch_size}{among} does not divide trainer.batch_size={trainer.batch_size}",
        )


def _check_evaluation(config: Config) -> None:
    evaluation = config.evaluation
    _one_of("evaluation.generate", evaluation.generate, GENERATE)
    if not evaluation.splits:
        raise ConfigError("evaluation.splits", "is empty; choose from validation, test")
    for split in evaluation.splits:
        _one_of("evaluation.splits", split, ("validation", "test"))
    for step in evaluation.steps:
        if not 0 <= step <= config.trainer.max_steps:
            raise ConfigError(
                "evaluation.steps", f"{step} is outside [0, {config.trainer.max_steps}] (trainer.max_steps)"
            )
    for c in evaluation.shrinkage:
        if not 0 <= c <= 1:
            raise ConfigError("evaluation.shrinkage", f"{c} is outside [0, 1]")
    _at_least("evaluation.replies", evaluation.replies, 1)
    _at_least("evaluation.pairs_per_prompt", evaluation.pairs_per_prompt, 1)
    _at_least("evaluation.bootstrap", evaluation.bootstrap, 1)
    if not 0 < evaluation.confidence < 1:
        raise ConfigError("evaluation.confidence", f"{evaluation.confidence} is outside (0, 1)")


def _check_places(config: Config) -> None:
    tracking = config.tracking
    _one_of("tracking.kind", tracking.kind, TRACKERS)
    _one_of("sweep.retry", config.sweep.retry, RETRY)
    schemes = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
    if tracking.uri is not None and tracking.uri.split("://")[0].split("+")[0] not in schemes:
        raise ConfigError(
            "tracking.uri",
            f"unknown scheme in {tracking.uri!r}; use sqlite:///FILE.db, a database or an http(s) server",
        )
    for key, path in (("paths.output", config.paths.output), ("paths.cache", config.paths.cache)):
        _check_writable(key, Path(path))


def _check_writable(key: str, path: Path) -> None:
    import os

    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(key, f"{existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK) or not _accepts_files(existing):
        raise ConfigError(key, f"cannot write in {existing}")


def _accepts_files(folder: Path) -> bool:
    """Whether a file can really be made there (root passes access checks on read-only mounts and in /proc)."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
