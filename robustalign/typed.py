"""A composed config with the schema's types: what the schema itself can check."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationValidationError, OmegaConfBaseException

from robustalign.config import Config
from robustalign.errors import ConfigError

LIST_FOR_MAPPING = "is a list; write a mapping: {NAME: VALUE, ...}"


def typed(composed: DictConfig) -> DictConfig:
    """A composed config without Hydra's part, its interpolations resolved and its values of the schema's types.

    Raises:
        ConfigError: a key is missing, or has a value of another type.
    """
    plain: Any = None
    bare = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    try:
        for key in sorted(OmegaConf.missing_keys(bare)):
            raise ConfigError(key, f"is missing; give {key}=VALUE")
        # through plain containers: a key that +key=value added to a schema node is refused, not dropped
        plain = OmegaConf.to_container(bare, resolve=True, throw_on_missing=True)
        merged = OmegaConf.merge(OmegaConf.structured(Config), plain)
    except InterpolationValidationError as error:  # dataset.name: ${dataset.path}, and nobody gave the path
        match = re.search(r"\$\{([\w.]+)\}.*'None'", str(error))
        key = match[1] if match else error.full_key or "config"
        raise ConfigError(key, f"is missing; give {key}=VALUE") from error
    except OmegaConfBaseException as error:
        if isinstance(plain, dict) and (listed := _list_for_mapping(OmegaConf.structured(Config), plain)):
            raise ConfigError(listed, LIST_FOR_MAPPING) from error
        raise ConfigError(error.full_key or "config", str(error).splitlines()[0]) from error
    assert isinstance(merged, DictConfig)
    return merged


def _list_for_mapping(schema: DictConfig, plain: dict[Any, Any], prefix: str = "") -> str | None:
    """The key of a list where the schema has a mapping, as omegaconf's message does not name it."""
    for name, value in plain.items():
        if name in schema and OmegaConf.is_dict(schema[name]):
            if isinstance(value, list):
                return f"{prefix}{name}"
            if isinstance(value, dict) and (key := _list_for_mapping(schema[name], value, f"{prefix}{name}.")):
                return key
    return None


def as_config(nodes: DictConfig) -> Config:
    """A typed config as dataclasses."""
    config = OmegaConf.to_object(nodes)
    assert isinstance(config, Config)
    return config
