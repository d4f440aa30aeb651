"""What can be refused of a config without loading a model, where torch is imported."""

from __future__ import annotations

from pathlib import Path

from robustalign.cache import ArtefactCache
from robustalign.config import Config
from robustalign.data.candidates import check_source
from robustalign.errors import ConfigError
from robustalign.groups import build_grouping
from robustalign.pipeline.account import told_of_rows
from robustalign.pipeline.stages import device, splits
from robustalign.policies.load import check_path, quantization
from robustalign.rewards import scorer_module
from robustalign.training.objective import Objective, build_objective


def check_config(config: Config) -> list[str]:
    """Refuse everything that can be refused without loading a model; lines that tell of the data.

    Raises:
        ConfigError: see its message.
    """
    objective = build_objective(config.method, config.trainer.batch_size)
    if objective.oracle and objective.target is not None and objective.target not in config.shift.targets:
        raise ConfigError("method.target", f"no target {objective.target!r}; there are: {list(config.shift.targets)}")
    if objective.target is not None and not objective.oracle:
        raise ConfigError("method.target", "only method=oracle knows a target")
    build_grouping(config.groups)
    _check_groups(config, objective)
    if getattr(objective.set, "gradient", None) == "exact":
        _check_double_backward(config)
    for name, spec in config.reward.items():
        scorer_module(name, spec)
    account = check_source(config, splits(config), ArtefactCache(Path(config.paths.cache)))
    check_path(config.model.path, Path(config.paths.output))
    if device(config).type != "cuda" and config.model.quantization is not None:
        raise ConfigError("model.quantization", "needs a CUDA device; take model.quantization=null here")
    if config.model.quantization is not None:
        quantization(config.model)
    return [] if account is None else told_of_rows(config, account)


def _check_double_backward(config: Config) -> None:
    """FSDP crashes; flash attention has no second derivative and may leave it out without a word; sdpa has one on its
    plain path, which a recomputation in the backward would not take."""
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
    if "group" in objective.needs and config.dataset.source != "chitchat" and config.shift.visible == "false":
        problem = "needs groups; use groups=overlooked, shift.visible=tag or natural, or dataset=chitchat"
        raise ConfigError("method.set", problem)
