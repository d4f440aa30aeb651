"""Fingerprints of what a config only names: the content of data and models, and the code of scorers.

These fingerprints are part of every artefact's key, and of ``inputs.json`` in the run's folder, by which a relaunch
knows that a run is outdated. Nothing is built or loaded for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from robustalign import fingerprints
from robustalign import rewards as scorers
from robustalign.config import Config
from robustalign.data.rows import key as rows_key
from robustalign.data.sources import chitchat
from robustalign.errors import ConfigError
from robustalign.policies.load import asset_folder, run_model
from robustalign.policies.save import ADAPTER_CONFIG, is_adapter
from robustalign.rewards.shipped import placed

KINDS = (".safetensors", ".json", ".jinja", ".model", ".txt")  # the files of a checkpoint on which its outputs depend
SHIPPED = Path(scorers.__file__).parent


def inputs(config: Config) -> dict[str, str]:
    """Fingerprints by name: ``data``, ``model``, ``policy`` (of an audit), ``reward.NAME``."""
    prints = {"data": data(config), "model": model(config)}
    if (policy := config.method.get("policy")) is not None:
        prints["policy"] = checkpoint(policy_path(policy, config), None, memory(config), "method.policy")
    if tasks := harness_tasks(config):
        prints["harness"] = {"files": tasks["include"]}
    prints |= {f"reward.{name}": scorer(name, spec, memory(config)) for name, spec in used_rewards(config).items()}
    return {name: fingerprints.of_value(value) for name, value in prints.items()}


def data(config: Config) -> dict[str, Any]:
    """Content of the files that are read.

    Raises:
        ConfigError: they are not there.
    """
    if config.dataset.source == "chitchat":
        return {"file": fingerprints.of_file(chitchat.location())}
    key = rows_key(config.dataset)
    return {name: key[name] for name in ("content", "side")}


def harness_tasks(config: Config) -> dict[str, str]:
    """The content of ``evaluation.harness.include``; empty without it."""
    return fingerprints.of_options({"include": config.evaluation.harness.include}, memory(config))


def memory(config: Config) -> Path:
    """The folder that caches the hashes of large files."""
    return Path(config.paths.cache) / "fingerprints"


def model(config: Config) -> dict[str, Any]:
    """Where the model comes from: the content of a folder, the version of a wheel, or the commit of a hub.

    Raises:
        ConfigError: it is not there.
    """
    kind, _, name = config.model.path.partition(":")
    if kind == "wheel":
        return wheel(name)
    if kind == "asset":
        path = str(asset_folder(name))
    else:
        path = str(run_model(name, Path(config.paths.output))) if kind == "run" else config.model.path
    return checkpoint(path, config.model.revision, memory(config))


def policy_path(path: str, config: Config) -> str:
    """The folder or hub id of ``method.policy``."""
    kind, _, name = path.partition(":")
    return str(run_model(name, Path(config.paths.output))) if kind == "run" else path


def wheel(name: str) -> dict[str, Any]:
    """An installed wheel's name and version."""
    try:
        return {"wheel": name, "version": version(name)}
    except PackageNotFoundError:
        return {"wheel": name, "version": "missing"}


def checkpoint(path: str, revision: str | None, memory: Path | None = None, key: str = "model.path") -> dict[str, Any]:
    """Content of a folder of ``save_pretrained``, of its base too where it holds adapters; or a hub's commit.

    Raises:
        ConfigError: the folder holds no safetensors weights, or the hub's model is neither there nor in its cache.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {"hub": path, "commit": _commit(path, revision)}
    files = [file for file in folder.iterdir() if file.suffix in KINDS]
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigError(key, f"{folder} holds no .safetensors weights")
    parts: dict[str, Any] = {"files": fingerprints.of_files(files, memory)}
    if is_adapter(folder):
        settings = json.loads((folder / ADAPTER_CONFIG).read_text())
        parts["base"] = checkpoint(settings["base_model_name_or_path"], settings.get("revision"), memory)
    return parts


@cache
def _commit(name: str, revision: str | None, key: str = "model.path") -> str:
    """The commit that a revision of a hub's model is at: the hub says, or offline its local cache."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        file = cached_file(name, "config.json", revision=revision)
    except (OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(key, f"no folder {name!r} here, and no such model of a hub: {first}") from error
    return extract_commit_hash(file, None) or str(revision)


def used_rewards(config: Config) -> dict[str, dict[str, Any]]:
    """The scorers whose scores are kept beside candidates: all, or beside people's choice those of the shift."""
    human = config.dataset.source == "preferences"
    objectives = {name.removeprefix("-") for name in config.shift.objectives}
    return {name: spec for name, spec in config.reward.items() if not human or name in objectives}


def scorer(name: str, spec: Mapping[str, Any], memory: Path | None = None) -> dict[str, Any]:
    """An objective's options, the files these name, and the code that scores it.

    Raises:
        ConfigError: no such reward ships, or the hub has no such model.
    """
    try:
        there = dict(spec) | ({"path": placed(str(spec["path"]))} if "path" in spec else {})
    except ValueError as error:
        raise ConfigError(f"reward.{name}.path", str(error).removeprefix("path: ")) from error
    files = fingerprints.of_options(there, memory)
    facts: dict[str, Any] = {"options": dict(spec), "files": files, "code": code(name, spec)}
    if "path" in spec and "path" not in files and "." not in str(spec["scorer"]):  # a scorer that ships
        facts["commit"] = _commit(str(spec["path"]), spec.get("revision"), f"reward.{name}.path")
    return facts


def reward_weights(config: Config) -> dict[str, str]:
    """By reward the fingerprint of the model that it scores by, as ``robustalign reward --track`` logs it."""
    files = {name: scorer(name, spec, memory(config))["files"] for name, spec in used_rewards(config).items()}
    return {f"reward.{name}.weights": contents["path"] for name, contents in files.items() if "path" in contents}


def code(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The code that scores an objective: of a scorer that ships, what is beside it."""
    module = scorers.scorer_module(name, spec)
    return fingerprints.of_code(module, SHIPPED if module.__name__.startswith(f"{scorers.__name__}.") else None)
