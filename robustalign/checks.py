"""Checks of a config before anything starts. The schema checks types; this module checks ranges and contradictions."""

from __future__ import annotations

import glob
import math
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from robustalign.bounds import problem as problem_of
from robustalign.bounds import problems
from robustalign.config import HUMAN, RESERVED_TARGETS, Config, CutConfig, DatasetConfig, ShiftConfig, TrainerConfig
from robustalign.errors import ConfigError, choices
from robustalign.names import check_stored
from robustalign.shifts.checks import check_people
from robustalign.stores import check_scheme, keep_password
from robustalign.typed import as_config, typed


def resolve(composed: DictConfig) -> Config:
    """A composed config as checked dataclasses, with absolute paths.

    Raises:
        ConfigError: a key is missing, has a value that cannot run, or contradicts another.
    """
    return checked(as_config(typed(composed)))


def checked(config: Config) -> Config:
    """The config itself, its paths absolute and its mixtures lists of weights.

    Raises:
        ConfigError: a value that cannot run, or contradicts another.
    """
    config.shift.targets = {} if config.shift.targets is None else config.shift.targets
    config.dataset.name = config.dataset.name or _name_of(config.dataset)
    _check_declared(config)
    if config.shift.kind == "scorers":
        _weigh_scorers(config.shift)
    _find_places(config)
    for check in (_check_model, _check_dataset, _check_shift, _check_trainer, _check_evaluation, _check_places):
        check(config)
    return config


def _weigh_scorers(shift: ShiftConfig) -> None:
    """Weights of objectives in full, for the nominal population and for each target."""
    if not shift.objectives:
        raise ConfigError("shift.objectives", "is empty; name at least one reward")
    if not isinstance(shift.targets, dict):
        raise ConfigError("shift.targets", f"{shift.targets!r} is no mapping; write {{NAME: WEIGHTS, ...}} or {{}}")
    shift.nominal = weights(shift.nominal, "shift.nominal", shift)
    shift.targets = {str(name): weights(w, f"shift.targets.{name}", shift) for name, w in shift.targets.items()}


def _name_of(dataset: DatasetConfig) -> str:
    """The name of a data set that the config does not name: the last part of its (first) path."""
    first = dataset.path
    while isinstance(first, dict | list) and first:
        first = next(iter(first.values() if isinstance(first, dict) else first))
    return Path(str(first)).name if first else dataset.source


def _found(key: str, path: Any) -> Any:
    """Absolute paths of what is on this machine; ``path`` may be a list, or a mapping by split."""
    if isinstance(path, dict):
        return {name: _found(f"{key}.{name}", one) for name, one in path.items()}
    if isinstance(path, list):
        return [_found(key, one) for one in path]
    return found_place(key, path) if isinstance(path, str) and path else path


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
    if not isinstance(value, list) or not all(isinstance(w, int | float) and not isinstance(w, bool) for w in value):
        raise ConfigError(key, f"{value!r} is not a number or a list of numbers")
    if len(value) != count:
        raise ConfigError(key, f"has {len(value)} weights for {count} objectives ({', '.join(shift.objectives)})")
    if not all(0 <= w <= 1 for w in value):
        raise ConfigError(key, f"{value} has a weight outside [0, 1]")
    if not math.isclose(sum(value), 1.0, abs_tol=1e-6):
        raise ConfigError(key, f"{value} sums to {sum(value):g}; weights must sum to 1")
    return [float(w) for w in value]


def _check_declared(config: Config) -> None:
    """The type and the range of every value, as the schema declares them."""
    for key, problem in problems(config):
        raise ConfigError(key, problem)
    for name, spec in config.reward.items():
        if not isinstance(spec, dict):
            value_text = "null" if spec is None else repr(spec)
            raise ConfigError(f"reward.{name}", f"{value_text} is no scorer; write {{scorer: NAME, OPTION: VALUE}}")
        for key, value in spec.items():
            if fault := problem_of(value, Any):
                raise ConfigError(f"reward.{name}.{key}", fault)


def _check_model(config: Config) -> None:
    model = config.model
    _check_adapters(config)
    room = model.max_length - config.dataset.sampling.max_new_tokens
    prompt = config.dataset.prompt_tokens
    if config.dataset.source != "preferences" and room < (8 if prompt is None else prompt + 1):
        raise ConfigError(
            "model.max_length",
            f"{model.max_length} leaves {room} tokens for a prompt beside "
            f"dataset.sampling.max_new_tokens={config.dataset.sampling.max_new_tokens}; raise it",
        )
    if model.sft.epochs and config.dataset.source == "preferences":
        raise ConfigError("model.sft.epochs", "is for the texts of dataset.source=chitchat or prompts; set it to 0")
    if model.sft.epochs and model.quantization is not None:
        raise ConfigError("model.sft.epochs", "a quantised base cannot be trained itself; set it to 0")


def _check_adapters(config: Config) -> None:
    lora, quantization = config.model.lora, config.model.quantization
    for key in ("modules_to_save", "use_rslora", "use_dora"):
        if getattr(lora, key) and lora.r == 0:
            raise ConfigError(f"model.lora.{key}", "means nothing without adapters; set model.lora.r")
    if quantization is None:
        return
    if lora.r == 0:
        raise ConfigError("model.quantization", "a quantised base cannot be trained itself; set model.lora.r")
    if config.trainer.parallel == "fsdp":
        raise ConfigError("model.quantization", "fsdp shards no quantised base; take trainer.parallel=ddp")


def _check_dataset(config: Config) -> None:
    dataset, pairs = config.dataset, config.dataset.pairs
    if dataset.source != "chitchat" and not dataset.path:
        what = f"dataset.source={dataset.source} needs a hub id, a folder, a file or a glob of files"
        raise ConfigError("dataset.path", f"is missing; {what}")
    for name in ("fields", "splits", "columns", "join", "where", "thread", "turns"):
        if not isinstance(getattr(dataset, name), dict):
            raise ConfigError(
                f"dataset.{name}", f"{getattr(dataset, name)!r} is no mapping; write {{NAME: ...}} or {{}}"
            )
    if pairs.rule == "all" and not (dataset.source == "preferences" and dataset.format == "scores"):
        raise ConfigError("dataset.pairs.rule", "all is for people's scores (dataset.format=scores) alone")
    if dataset.cut.validation + dataset.cut.test >= 1:
        raise ConfigError("dataset.cut", "validation and test leave nothing to train on; their sum must be below 1")
    if dataset.source == "chitchat" and dataset.cut != CutConfig():
        raise ConfigError("dataset.cut", "chit-chat is cut for good: its policy was trained on the training split")
    if not dataset.min_words <= dataset.max_words:
        raise ConfigError("dataset.max_words", f"{dataset.max_words} is below dataset.min_words={dataset.min_words}")
    if pairs.rule == "best_worst" and dataset.source != "preferences" and pairs.m > dataset.samples:
        raise ConfigError("dataset.pairs.m", f"{pairs.m} is outside [2, dataset.samples={dataset.samples}]")


def _check_shift(config: Config) -> None:
    shift = config.shift
    check_stored("reward", config.reward)
    if shift.visible != "natural":  # the same objective of other prompts is another group of people
        _once("shift.objectives", shift.objectives)
    if shift.kind != "scorers":
        check_people(config)
        return
    _check_labels(config)
    names = [*config.reward, HUMAN] if config.dataset.source == "preferences" else list(config.reward)
    for name in shift.objectives:
        if name.removeprefix("-") not in names:
            raise ConfigError("shift.objectives", f"no reward {name!r}; the reward group has: {choices(names)}")
    for name in sorted(RESERVED_TARGETS & set(shift.targets)):
        raise ConfigError(f"shift.targets.{name}", "this name is kept for a summary; choose another")
    check_stored("shift.targets", shift.targets)
    _check_visible(config)
    _check_temperatures(config)
    if shift.combine == "geometric" and any(name.startswith("-") for name in shift.objectives):
        raise ConfigError("shift.objectives", "a negated objective has no geometric mean; use shift.combine=convex")


def _once(key: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ConfigError(key, f"{names} names one twice")


def _check_visible(config: Config) -> None:
    shift, source = config.shift, config.dataset.source
    if shift.visible != "false" and shift.combine != "population":
        raise ConfigError("shift.visible", f"{shift.visible!r} needs shift.combine=population, not {shift.combine}")
    if shift.visible != "false" and source == "preferences":
        fix = "tell people apart by a column: shift=groups shift.by=COLUMN"
        raise ConfigError("shift.visible", f"{shift.visible!r} is for prompts, not for people's comparisons; {fix}")
    if shift.visible == "natural" and source != "chitchat":
        fix = f"the prompts of dataset.source={source} have no group; use shift.visible=tag"
        raise ConfigError("shift.visible", fix)
    if shift.visible != "natural":
        return
    if len(shift.groups) != len(shift.objectives):
        raise ConfigError("shift.groups", f"natural visibility needs one prompt group for each of {shift.objectives}")
    if len(set(zip(shift.objectives, shift.groups, strict=True))) < len(shift.groups):
        raise ConfigError("shift.groups", f"{shift.groups} names one twice for the same objective")


def _check_temperatures(config: Config) -> None:
    shift = config.shift
    if shift.temperatures and len(shift.temperatures) != len(shift.objectives):
        raise ConfigError("shift.temperatures", f"needs one number for each of {shift.objectives}, or none")
    if shift.temperatures and (shift.combine != "population" or config.dataset.pairs.rule != "bradley_terry"):
        fix = "needs shift.combine=population and dataset.pairs.rule=bradley_terry, whose labels have a temperature"
        raise ConfigError("shift.temperatures", fix)


def _check_labels(config: Config) -> None:
    """People's comparisons are labelled by the people, unless the config says that scorers label them anew."""
    dataset, shift = config.dataset, config.shift
    scorers = [name for name in shift.objectives if name.removeprefix("-") != HUMAN]
    if dataset.source == "preferences" and scorers and not dataset.relabel:
        raise ConfigError(
            "shift.objectives",
            f"{scorers} are scorers, but people chose these replies; use shift=people (or another shift of "
            f"'{HUMAN}'), or say dataset.relabel=true to have scorers label the replies anew",
        )


def _check_trainer(config: Config) -> None:
    steps, epochs = config.trainer.max_steps, config.trainer.epochs
    if steps is not None and epochs is not None:
        raise ConfigError("trainer.epochs", f"{epochs:g} beside trainer.max_steps={steps}; add trainer.max_steps=null")
    if steps is None and epochs is None:
        raise ConfigError("trainer.max_steps", "is missing; give it, or trainer.epochs")
    check_ranks(config.trainer, config.trainer.nproc)


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
    if not evaluation.splits:
        raise ConfigError("evaluation.splits", "is empty; choose from validation, test")
    _once("evaluation.splits", evaluation.splits)
    for step in evaluation.steps:
        if config.trainer.max_steps is not None and step > config.trainer.max_steps:
            raise ConfigError(
                "evaluation.steps", f"{step} is outside [0, {config.trainer.max_steps}] (trainer.max_steps)"
            )
    for epoch in evaluation.epochs:
        if config.trainer.epochs is not None and epoch > config.trainer.epochs:
            raise ConfigError(
                "evaluation.epochs", f"{epoch:g} is outside [0, {config.trainer.epochs:g}] (trainer.epochs)"
            )


def _find_places(config: Config) -> None:
    """Make the paths of this machine absolute, so that a run is the same wherever it is started."""
    config.paths.output = str(Path(config.paths.output).expanduser().absolute())
    config.paths.cache = str(Path(config.paths.cache).expanduser().absolute())
    config.model.path = found_place("model.path", config.model.path)
    if isinstance(policy := config.method.get("policy"), str):
        config.method["policy"] = found_place("method.policy", policy)
    if config.dataset.source != "chitchat":
        config.dataset.path = _found("dataset.path", config.dataset.path)
    if (tasks := config.evaluation.harness.include) is not None:
        place = Path(tasks).expanduser().absolute()
        if not place.is_dir():
            raise ConfigError("evaluation.harness.include", f"no folder {str(place)!r}")
        config.evaluation.harness.include = str(place)
    scheme, slashes, file = (config.tracking.uri or "").partition(":///~")
    if slashes:
        config.tracking.uri = f"{scheme}:///{Path('~' + file).expanduser()}"


def found_place(key: str, path: str) -> str:
    """The absolute path of what is on this machine; the name itself if it may be a hub's.

    Raises:
        ConfigError: it can only be a path (it starts with ``/``, ``.`` or ``~``, or has more than one ``/``), and
            nothing is there.
    """
    if re.match(r"\w{2,}:", path):  # asset:NAME, wheel:NAME, scheme://
        return path
    place = Path(path).expanduser()
    if place.exists() or glob.has_magic(path):
        return str(place.absolute())
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        where = "" if place.is_absolute() else f" in {Path.cwd()}"
        raise ConfigError(key, f"there is no folder or file {path!r}{where}")
    return path


def _check_places(config: Config) -> None:
    tracking = config.tracking
    if tracking.uri is not None:
        tracking.uri = keep_password(tracking.uri)
        check_scheme(tracking.uri)
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
    """Whether a file can be created there. It is tried: root passes access checks on read-only mounts and in /proc."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
