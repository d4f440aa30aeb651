"""What a user did wrong, as one line: ``robustalign: error: KEY: PROBLEM``."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import OmegaConfBaseException

from robustalign.config import Config, config_dir
from robustalign.errors import ConfigError, choices
from robustalign.stores import hide
from robustalign.sweeps.scales import several
from robustalign.typed import LIST_FOR_MAPPING

USAGE = 2  # exit code
SHOW = " (--cfg job shows those it has)"


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn what a user can fix into one line and exit code 2; anything else is a bug and keeps its traceback."""
    try:
        yield
    except (ConfigError, HydraException, OmegaConfBaseException, yaml.MarkedYAMLError) as error:
        problem = explain(error)
        print(f"robustalign: error: {problem.key}: {hide(problem.problem)}", file=sys.stderr)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        print("\nrobustalign: interrupted; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def explain(error: BaseException) -> ConfigError:
    """The config key at fault and the fix, for any error of Hydra, of OmegaConf or of this package."""
    for cause in _chain(error):
        if isinstance(cause, ConfigError):
            return cause
        if isinstance(cause, yaml.MarkedYAMLError):
            return _yaml(cause)
    text = "\n".join(str(cause) for cause in _chain(error))
    for explainer in (_syntax, _missing_option, _unknown_key, _unknown_group, _bad_value):
        if problem := explainer(error, text):
            return problem
    return ConfigError("config", str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)


def _yaml(error: yaml.MarkedYAMLError) -> ConfigError:
    """The file and the line of a config that is no YAML."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return ConfigError("config", str(error).splitlines()[0])
    where = f"{Path(mark.name).name} line {mark.line + 1}"
    return ConfigError(where, f"is no YAML: {error.problem or error.context} (column {mark.column + 1} of {mark.name})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _syntax(error: BaseException, text: str) -> ConfigError | None:
    if not isinstance(error, OverrideParseException):
        return None
    key = error.override.partition("=")[0].lstrip("+") or error.override
    if "=" not in error.override:
        return ConfigError(key, f"is no override; write KEY=VALUE (got {error.override!r})")
    return ConfigError(key, f"cannot be read in {error.override!r}; quote special characters: '{key}=\"...\"'")


def _missing_option(error: BaseException, text: str) -> ConfigError | None:
    if not isinstance(error, MissingConfigException):
        return None
    match = re.search(r"Could not find '([^']+)'", text)
    if match is None:
        return ConfigError("config", text.strip().splitlines()[0])
    group, _, option = match[1].rpartition("/")
    option_lines = text.partition("Available options in")[2].partition("\n\n")[0]
    options = re.findall(r"^\t([^\s=]+)$", option_lines, re.MULTILINE) + (several() if group == "experiment" else [])
    hint = f"; choose one of: {choices(options)}" if options else ""
    return ConfigError(group or option, f"unknown value {option!r}{hint}")


def _unknown_group(error: BaseException, text: str) -> ConfigError | None:
    match = re.search(r"Could not override '([^']+)'", text)
    if match is None:
        return None
    key = match[1].partition("@")[0]
    return ConfigError(key, f"unknown key{_suggestion(key)}")


def _unknown_key(error: BaseException, text: str) -> ConfigError | None:
    match = re.search(r"Could not (?:override|append to config|delete from config)[^']*'([^'=]+)", text)
    if match is None or "." not in match[1]:
        return None
    key = match[1].lstrip("+~")
    parent = key.rpartition(".")[0]
    if parent == "method":
        return ConfigError(key, f"the chosen method has no such key{_suggestion(key, _method_keys())}{SHOW}")
    if parent == "groups":
        return ConfigError(key, f"the chosen grouping has no such key{_suggestion(key, _group_keys())}{SHOW}")
    if parent.partition(".")[0] == "reward":
        return ConfigError(
            key, f"no reward that is used has such a key{_suggestion(key, _reward_keys())}; +{key}= adds it"
        )
    siblings = [name.rpartition(".")[2] for name in _keys() if name.rpartition(".")[0] == parent]
    hint = f"; {parent} has: {choices(siblings)}" if siblings else ""
    return ConfigError(key, f"unknown key{_suggestion(key)}{hint}")


def _bad_value(error: BaseException, text: str) -> ConfigError | None:
    key = re.search(r"Error merging override ([^=\s]+)=", text) or re.search(r"full_key: (\S+)", text)
    causes = [cause for cause in _chain(error) if isinstance(cause, OmegaConfBaseException)]
    problem = next((str(cause).splitlines()[0] for cause in reversed(causes) if str(cause)), None)
    if problem is None or problem.startswith("Error merging override"):
        problem = next((line for line in text.splitlines() if line and not line.startswith("Error merging")), text)
    ambiguous = re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text)
    if ambiguous:
        return ConfigError(ambiguous[1], f"'{ambiguous[2]}' is a sweep (add -m) or a list (write [{ambiguous[2]}])")
    if "Cannot merge DictConfig with ListConfig" in problem:
        problem = LIST_FOR_MAPPING
    if key is None and not isinstance(error, ConfigCompositionException | OmegaConfBaseException):
        return None
    return ConfigError(key[1].lstrip("+~") if key else "config", problem)


def _suggestion(key: str, keys: Sequence[str] | None = None) -> str:
    close = difflib.get_close_matches(key, _keys() if keys is None else keys, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close and close[0] != key else ""


def _group_keys() -> list[str]:
    """The keys that some grouping has."""
    from robustalign.groups.config import known_keys

    return [f"groups.{name}" for name in known_keys()]


def _reward_keys() -> list[str]:
    """The options of the rewards that ship, as keys."""
    files = [yaml.safe_load(file.read_text()) for file in sorted((config_dir() / "reward").glob("*.yaml"))]
    keys = (f"reward.{name}.{option}" for rewards in files for name, spec in rewards.items() for option in spec)
    return list(dict.fromkeys(keys))


def _method_keys() -> list[str]:
    """The keys that some method has. It imports torch, so it is called only after a key was found to be wrong."""
    from robustalign.training.objective import known_keys

    return [f"method.{key}" for key in known_keys()]


def _keys(kind: type = Config, prefix: str = "") -> list[str]:
    hints = get_type_hints(kind)
    names = []
    for field in fields(kind):
        names.append(prefix + field.name)
        if is_dataclass(hints[field.name]):
            names += _keys(hints[field.name], f"{prefix}{field.name}.")
    return names
