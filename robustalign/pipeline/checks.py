"""Checks of a config that need torch, but no model."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig

from robustalign.cache import ArtefactCache
from robustalign.config import Config, TrainerConfig
from robustalign.data.candidates import check_source, split_rows
from robustalign.data.whole_groups import columns_of
from robustalign.errors import ConfigError, choices
from robustalign.evaluation.harness import check_harness
from robustalign.groups import build_grouping
from robustalign.pipeline.account import told_of_rows
from robustalign.pipeline.stages import device, splits
from robustalign.policies.limits import check_limits
from robustalign.policies.load import asset_folder, check_path, load_tokenizer, quantization
from robustalign.rewards import check_options
from robustalign.shifts.columns import ColumnShift, column_shift
from robustalign.shifts.labels import seconds
from robustalign.training.objective import Objective, build_objective


def check_config(config: Config) -> list[str]:
    """Refuse everything that can be refused without loading a model; lines to print of what is allowed but odd.

    Raises:
        ConfigError: see its message.
    """
    objective = build_objective(config.method, config.trainer.batch_size)
    if objective.target is not None and not objective.oracle:
        raise ConfigError("method.target", "only method=oracle knows a target")
    if objective.policy is not None and config.trainer.epochs is not None:
        raise ConfigError("trainer.epochs", "an audit trains nothing; take trainer.epochs=null trainer.max_steps=1")
    if config.trainer.max_steps is not None:
        objective.mass_from(config.trainer.max_steps)
    build_grouping(config.groups)
    _check_groups(config, objective)
    if getattr(objective.set, "gradient", None) == "exact":
        _check_double_backward(config)
    for name, spec in config.reward.items():
        check_options(name, spec)
    account = check_source(config, splits(config), ArtefactCache(Path(config.paths.cache)))
    unmeasured = _check_populations(config, objective)
    if objective.policy is not None:
        try:
            check_path(objective.policy, Path(config.paths.output))
        except ConfigError as error:
            raise ConfigError("method.policy", error.problem) from error
    check_path(config.model.path, Path(config.paths.output))
    check_harness(config.evaluation.harness)
    _check_limits(config)
    if device(config).type != "cuda" and config.model.quantization is not None:
        raise ConfigError("model.quantization", "needs a CUDA device; take model.quantization=null here")
    if config.model.quantization is not None:
        quantization(config.model)
    cold = [] if objective.policy is not None else _never_warm(config.trainer)
    return [*([] if account is None else told_of_rows(config, account)), *unmeasured, *cold]


def _never_warm(trainer: TrainerConfig) -> list[str]:
    """A line where training ends before the learning rate has reached its peak."""
    steps, warmup = trainer.max_steps, trainer.warmup_steps
    if steps is None or steps > warmup:
        return []
    problem = f"{warmup} of {steps} steps, so the learning rate ends at {steps / (warmup + 1):.0%} of its peak"
    return [f"trainer.warmup_steps: {problem}; take trainer.warmup_steps={steps // 8}"]


def _check_limits(config: Config) -> None:
    """Refuse what the architecture cannot do, if its config is on this machine."""
    kind, _, name = config.model.path.partition(":")
    folder = asset_folder(name) if kind == "asset" else Path(config.model.path)
    if (folder / "config.json").is_file():
        tokenizer = load_tokenizer(folder, config.model.revision)
        highest = max(tokenizer.get_vocab().values(), default=-1)
        check_limits(AutoConfig.from_pretrained(folder, trust_remote_code=False), config.model, highest + 1)


def _check_double_backward(config: Config) -> None:
    """Refuse what has no correct second derivative.

    FSDP crashes. Flash attention has no second derivative, and some versions omit it without an error. sdpa has one on
    its plain path, which a recomputation in the backward does not use.
    """
    if config.trainer.parallel == "fsdp":
        problem = "exact differentiates twice, but fsdp frees parameters after use; take trainer.parallel=ddp"
        raise ConfigError("method.gradient", problem)
    model = config.model
    if model.attention == "flash_attention_2" or (model.attention == "sdpa" and model.gradient_checkpointing):
        path = f"model.attention={model.attention}" + (" with checkpointing" if model.gradient_checkpointing else "")
        raise ConfigError(
            "method.gradient", f"exact needs a second derivative, not to be had from {path}; use model.attention=eager"
        )


def _check_groups(config: Config, objective: Objective) -> None:
    if config.groups["method"] != "none":
        return
    if objective.mass is not None:
        raise ConfigError("method.mass", "weighs up a group, but there is none; use groups=overlooked")
    if objective.regret:
        raise ConfigError("method.regret", "compares groups, but there are none; use groups=overlooked")
    there = config.dataset.source == "chitchat" or config.shift.visible != "false" or config.shift.kind != "scorers"
    if "group" in objective.needs and not there:
        fix = "use groups=overlooked, shift.visible=tag or natural, dataset=chitchat, or people's (shift=groups)"
        raise ConfigError("method.set", f"needs groups; {fix}")


def _unmeasured(config: Config, shift: ColumnShift) -> list[str]:
    """A line for each split that lacks rows of a group that is trained on, where nominal values are NaN then."""
    trained = {component.name for component, share in zip(shift.components, shift.shares(), strict=True) if share > 0}
    lines = []
    for split in config.evaluation.splits:
        there = {shift.components[shift.place[label]].name for label, rows in shift.rows.items() if rows.get(split)}
        if lacking := sorted(trained - there):
            fix = "dataset.split_by=replies or a larger dataset.cut holds some out"
            lines.append(f"shift.nominal: no {split} row is of {choices(lacking)}; nominal values are NaN there; {fix}")
    return lines


def _check_populations(config: Config, objective: Objective) -> list[str]:
    """Refuse populations that the data cannot make, or that the method cannot train on; returns lines to print."""
    lines: list[str] = []
    names, trained = tuple(config.shift.targets), 2
    if config.shift.kind != "scorers":
        rows = split_rows(config, ArtefactCache(Path(config.paths.cache)))
        columns = {split: columns_of(rows, rows.index[split]) for split in splits(config)}
        if config.shift.kind == "time":
            for split, of_split in columns.items():
                by = str(config.shift.by if isinstance(config.shift.by, str) else config.shift.by[0])
                seconds(of_split[by], by, rows=rows.table.select(rows.index[split])["row"][:])
        shift = column_shift(config.shift, columns, config.evaluation.splits)
        names, trained = shift.names, int((shift.shares() > 0).sum())
        lines = _unmeasured(config, shift)
    if objective.oracle and objective.target is not None and objective.target not in names:
        raise ConfigError("method.target", f"no target {objective.target!r}; there are: {choices(names)}")
    if "group" in objective.needs and config.groups["method"] == "none" and trained < 2:
        raise ConfigError("method.set", "one group alone is trained on (shift.nominal); it leaves nothing to weigh")
    return lines
