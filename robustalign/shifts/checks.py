"""Checks of a shift between people, before any data are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from robustalign.config import RESERVED_TARGETS, TARGETS, Config
from robustalign.errors import ConfigError, choices


def check_people(config: Config) -> None:
    """Check ``shift`` of any kind but scorers.

    Raises:
        ConfigError: with the key at fault.
    """
    shift, dataset = config.shift, config.dataset
    if dataset.source != "preferences":
        raise ConfigError(
            "shift.kind", f"{shift.kind} is for comparisons that people made (dataset.source=preferences)"
        )
    if shift.visible != "false":
        raise ConfigError(
            "shift.visible", f"is for scorers; people of shift.kind={shift.kind} are told apart by shift.by"
        )
    _check_by(config)
    for name in shift.objectives:
        if name not in config.reward:
            raise ConfigError("shift.objectives", f"no reward {name!r}; the reward group has: {choices(config.reward)}")
    if shift.nominal not in (None, "observed"):
        _check_shares(shift.nominal, "shift.nominal")
    if shift.whole_groups and not isinstance(shift.nominal, Mapping):
        raise ConfigError("shift.nominal", "must name the groups that are trained on where shift.whole_groups=true")
    _check_targets(shift.targets)
    if not isinstance(shift.cut, str) and not (_number(shift.cut) and 0 < shift.cut < 1):
        raise ConfigError("shift.cut", f"{shift.cut} is neither a share in (0, 1) nor a date")


def _check_by(config: Config) -> None:
    shift, columns = config.shift, config.dataset.columns
    by = [shift.by] if isinstance(shift.by, str) else shift.by
    if not by or not isinstance(by, list) or not all(isinstance(name, str) for name in by):
        raise ConfigError(
            "shift.by", f"names the column that tells people apart; dataset.columns has: {choices(columns)}"
        )
    if len(by) > 1 and shift.kind != "groups":
        raise ConfigError("shift.by", f"shift.kind={shift.kind} takes one column, not {len(by)}")
    for name in by:
        if name not in columns:
            raise ConfigError("shift.by", f"no column {name!r} is carried; dataset.columns has: {choices(columns)}")


def _check_targets(targets: Any) -> None:
    for mode in targets if isinstance(targets, list) else [targets]:
        if isinstance(mode, Mapping):
            for name, shares in mode.items():
                if name in RESERVED_TARGETS:
                    raise ConfigError(f"shift.targets.{name}", "this name is kept for a summary; choose another")
                _check_shares(shares, f"shift.targets.{name}")
        elif mode not in TARGETS:
            raise ConfigError(
                "shift.targets", f"unknown value {mode!r}; choose one of: {choices(TARGETS)}, or name shares"
            )


def _check_shares(value: Any, key: str) -> None:
    """Shares by group, >= 0 and of sum 1."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(key, f"{value!r} is no mapping of groups to shares, such as {{US: 0.9, UK: 0.1}}")
    for name, share in value.items():
        if not _number(share) or not 0 <= share <= 1:
            raise ConfigError(key, f"the share of {name!r}, {share!r}, is no number in [0, 1]")
    total = sum(value.values())
    if not math.isclose(total, 1.0, abs_tol=1e-6):
        raise ConfigError(key, f"the shares sum to {total:g}; they must sum to 1")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
