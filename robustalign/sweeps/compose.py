"""The configs of many jobs, composed by Hydra once for each choice of groups rather than once for each job.

Composing and resolving a config takes Hydra a tenth of a second. Jobs of a sweep differ in a few values: a *prototype*
is composed for each choice of groups, and the other jobs that choose the same set their values in a copy of it. Where
that could differ from what Hydra makes (a value that others refer to, a deletion, a key below another), Hydra makes it.
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robustalign.checks import checked
from robustalign.config import Config
from robustalign.run.identity import leaves
from robustalign.typed import as_config, typed

SIMPLE = re.compile(r"\$\{(\w[\w.]*)\}")


class Composer:
    """Makes the checked config of each job of a sweep.

    Args:
        loader: Hydra's.
        master: the config that Hydra composed for the sweep itself.
    """

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self.loader, self.master = loader, master
        self.parser = OverridesParser.create(config_loader=loader)
        self._overrides: dict[str, Override] = {}
        self._is_group: dict[str, bool] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._prototypes: dict[tuple[Any, ...], Prototype | None] = {}

    def config(self, words: Sequence[str]) -> Config:
        """The config of a job by its override words.

        Raises:
            ConfigError, HydraException, OmegaConfBaseException: what the user has to change.
        """
        self._parse(words)
        groups = tuple(word for word in words if self._chooses(self._overrides[word]))
        values = [self._overrides[word] for word in words if word not in groups]
        free = [o for o in values if _is_free(o, values)]
        kind = (groups, tuple(_shape(o) if o in free else o.input_line for o in values))
        if kind not in self._prototypes:
            composed = self._by_hydra(groups, values)
            self._prototypes[kind] = Prototype(composed) if _independent(composed, free) else None
        prototype = self._prototypes[kind]
        config = prototype.config(free) if prototype else None
        return checked(config or as_config(typed(self._by_hydra(groups, values))))

    def _by_hydra(self, groups: tuple[str, ...], values: list[Override]) -> DictConfig:
        if groups not in self._composed:
            self._composed[groups] = self.loader.load_sweep_config(self.master, list(groups))
        config = copy.deepcopy(self._composed[groups])
        self.loader._apply_overrides_to_config(values, config)
        return config

    def _parse(self, words: Sequence[str]) -> None:
        new = [word for word in words if word not in self._overrides]
        self._overrides.update(zip(new, self.parser.parse_overrides(new), strict=True))

    def _chooses(self, override: Override) -> bool:
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = self.loader.repository.group_exists(key)
        return self._is_group[key]


class Prototype:
    """A config in which the values of some keys are replaced."""

    def __init__(self, composed: DictConfig) -> None:
        self.nodes = typed(composed)
        self.whole = pickle.dumps(as_config(self.nodes))
        self._converted: dict[str, Any] = {}

    def config(self, overrides: Iterable[Override]) -> Config | None:
        """A copy with these values; None where one of them is not of its key's type."""
        config: Config = pickle.loads(self.whole)
        for override in overrides:
            *path, name = override.key_or_group.split(".")
            node: Any = config
            for part in path:
                node = getattr(node, part) if is_dataclass(node) else node[part]
            try:
                value = self._convert(override)
            except OmegaConfBaseException:
                return None
            if is_dataclass(node):
                setattr(node, name, value)
            else:
                node[name] = value
        return config

    def _convert(self, override: Override) -> Any:
        """The value converted to the type of its key."""
        word = str(override.input_line)
        if word not in self._converted:
            OmegaConf.update(self.nodes, override.key_or_group, override.value(), merge=True)
            value = OmegaConf.select(self.nodes, override.key_or_group)
            self._converted[word] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        return copy.copy(self._converted[word])


def _is_free(override: Override, among: Sequence[Override]) -> bool:
    """Whether an override sets one value, whatever the others do before or after it."""
    key, value = override.key_or_group, override.value()
    others = [other.key_or_group for other in among if other is not override]
    alone = not any(_related(key, other) for other in others)
    items = value if isinstance(value, list) else [value]
    plain = all(item is None or isinstance(item, bool | int | float | str) for item in items)
    return alone and plain and not override.is_delete() and not any(sign in str(value) for sign in ("${", "???"))


def _shape(override: Override) -> tuple[Any, ...]:
    """The part of an override on which the choice of a prototype depends."""
    return override.type, override.package, override.key_or_group, isinstance(override.value(), list)


def _independent(composed: DictConfig, free: Sequence[Override]) -> bool:
    """Whether no value of a config is computed from these keys."""
    bare = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    plain = cast(dict[str, Any], OmegaConf.to_container(bare, resolve=False))
    texts = [str(value) for _, value in leaves(plain) if "${" in str(value)]
    referred = [name for text in texts for name in SIMPLE.findall(text)]
    if any("${" in SIMPLE.sub("", text) for text in texts):  # a resolver, or a name relative to its place
        return not free
    return not any(_related(override.key_or_group, name) for override in free for name in referred)


def _related(key: str, other: str) -> bool:
    """Whether two keys are the same, or one lies below the other."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
