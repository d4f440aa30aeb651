"""A shift between people: a column of the data says who labelled a comparison, and populations differ in these people.

The values of a column are the components, ``groups``. A comparison belongs to the group that labelled it, so
populations differ in whose comparisons they hold and how many; nothing is labelled anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robustalign.config import RESERVED_TARGETS, PairsConfig, ShiftConfig
from robustalign.errors import ConfigError, choices
from robustalign.names import check_stored
from robustalign.shifts import distances
from robustalign.shifts.labels import Labels, build_labels
from robustalign.shifts.pairs import Pairs
from robustalign.shifts.shift import Judge, Kind, Rows, Shift

OTHER = "other"  # the component of groups with too few rows
Columns = Mapping[str, np.ndarray]  # column -> text [P]


@dataclass(frozen=True)
class ColumnShift(Shift):
    """Populations of the groups of a column.

    ``place``: label of a row -> index of its component; labels with too few rows share the last, ``OTHER``.
    ``rows``: label -> split -> number of rows, of everything that was seen when groups were made. ``judge``: rates new
    replies, the same for all groups; None where no reward is named.
    """

    labels: Labels
    place: Mapping[str, int]
    names_of_components: tuple[str, ...]
    nominal: np.ndarray
    targets: Mapping[str, np.ndarray]
    rows: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    judge: Judge | None = None

    @property
    def components(self) -> tuple[Kind, ...]:
        return tuple(map(Kind, self.names_of_components))

    @property
    def judges(self) -> tuple[Judge, ...]:
        return () if self.judge is None else (self.judge,)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.targets)

    def shares(self, target: str | None = None) -> np.ndarray:
        return self.nominal if target is None else self.targets[target]

    def coordinate(self, target: str) -> float:
        """Total variation of the shares; of a shift in time how late the target is, 1 for the last window."""
        late = self.labels.lateness(self.names_of_components)
        if late is not None:
            return float(np.clip((self.targets[target] - self.nominal) @ late, 0.0, 1.0))
        return float(np.abs(self.targets[target] - self.nominal).sum() / 2)

    @property
    def pooled(self) -> list[str]:
        """Labels that share the component ``OTHER``."""
        return [label for label, index in self.place.items() if self.names_of_components[index] != label]

    def members(self, columns: Columns) -> np.ndarray:
        """The component of each row ``[P]`` int64; a label that was not seen before is one of ``OTHER``, or -1."""
        unseen = self.names_of_components.index(OTHER) if OTHER in self.names_of_components else -1
        labels, index = np.unique(self.labels.of(columns), return_inverse=True)
        return np.array([self.place.get(label, unseen) for label in labels.tolist()], dtype=np.int64)[index]

    def pairs(self, rows: Rows, component: int, rule: PairsConfig, *, per_prompt: int, seed: int) -> Pairs:
        """The comparisons that a group made; all of them, whatever ``per_prompt``."""
        rows_of_member = np.flatnonzero(self.members(rows.columns) == component)
        soft = rows.soft_label[rows_of_member]
        share = np.clip(np.where(np.isnan(soft), 1.0, soft), 1e-6, 1 - 1e-6)
        return Pairs(
            prompt=rows_of_member,
            chosen=np.zeros(len(rows_of_member), dtype=np.int64),
            rejected=np.ones(len(rows_of_member), dtype=np.int64),
            gap=rule.temperature * np.log(share / (1 - share)),
            annotator=np.full(len(rows_of_member), component),
            dropped={},
            soft_label=np.where(np.isnan(soft), 1.0, soft),
            weight=rows.weight[rows_of_member],
        )

    def distances(self, rows: Mapping[str, Rows], rule: PairsConfig) -> dict[str, list[float]]:
        """``kl`` and ``tv`` of the shares, and ``disagreement``: how often a person of the target and one of the
        nominal population disagree on the same item, beside how often two of the nominal population do."""
        parts = list(rows.values())
        apart = distances.ItemVotes.of(
            item=joined_items([part.items for part in parts]),
            share=np.concatenate([part.first_share for part in parts]),
            weight=np.concatenate([part.weight for part in parts]),
            member=np.concatenate([self.members(part.columns) for part in parts]),
            groups=len(self.components),
        ).disagreement()
        nominal, shares = self.shares(), [self.shares(name) for name in self.names]
        within = distances.expected(apart, nominal, nominal)
        return {
            "kl": [distances.kl(share, nominal) for share in shares],
            "tv": [float(np.abs(share - nominal).sum() / 2) for share in shares],
            "disagreement": [distances.expected(apart, share, nominal) for share in shares],
            "disagreement_nominal": [within for _ in shares],
        }


def joined_items(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The items of several splits, numbered apart: splits share no prompt and so no item."""
    starts = np.cumsum([0, *(int(part.max(initial=-1)) + 1 for part in parts)])
    return np.concatenate([part + start for part, start in zip(parts, starts, strict=False)])


def column_shift(config: ShiftConfig, columns: Mapping[str, Columns], held_out: Sequence[str]) -> ColumnShift:
    """The populations of a config over the data.

    Args:
        config: with ``kind`` groups, time or annotators.
        columns: split -> the rows' columns.
        held_out: splits that are measured; there a group needs ``min_rows`` rows, all splits together, to stand alone.

    A group that ``nominal`` names stands alone however few rows it has; it is no target of its own then.

    Raises:
        ConfigError: a column or group that is not there, one group only, or a date that does not parse.
    """
    labels = build_labels(config, columns)
    of_split = {split: labels.of(rows) for split, rows in columns.items()}
    counts = {split: dict(zip(*_counts(tally), strict=True)) for split, tally in of_split.items()}
    present = sorted({label for tally in counts.values() for label in tally}, key=labels.order)
    rows = {label: {split: tally.get(label, 0) for split, tally in counts.items()} for label in present}
    enough = {label: sum(tally[split] for split in held_out) >= config.min_rows for label, tally in rows.items()}
    in_config = {str(name) for name in config.nominal} if isinstance(config.nominal, Mapping) else set()
    large = [label for label in present if enough[label] or label in in_config or not labels.several]
    small = [label for label in present if label not in large]
    names = (*large, *([OTHER] if small else []))
    place = {label: large.index(label) if label in large else len(large) for label in present}
    _check_groups(config, labels, present, large)
    train = np.array([place[label] for label in present for _ in range(rows[label].get("train", 0))], dtype=np.int64)
    observed = np.bincount(train, minlength=len(names)) / max(len(train), 1)
    measured = [name for name in names if name == OTHER or enough[name] or not labels.several]
    reader = _Shares(labels, names, observed, small, config.min_rows, measured)
    nominal = reader.nominal(config.nominal)
    for index in np.flatnonzero((nominal > 0) & (observed == 0)):
        raise ConfigError("shift.nominal", f"no training row is of {names[index]!r} in {labels.column}")
    check_stored("shift.by", names)
    return ColumnShift(labels, place, names, nominal, reader.targets(config.targets), rows)


def _counts(labels: np.ndarray) -> tuple[list[str], list[int]]:
    values, counts = np.unique(labels, return_counts=True)
    return values.tolist(), counts.tolist()


def _check_groups(config: ShiftConfig, labels: Labels, present: Sequence[str], large: Sequence[str]) -> None:
    if len(present) == 1:
        raise ConfigError("shift.by", f"{labels.column} tells no people apart: every row is of {present[0]!r}")
    if not large:
        few = f"no group has {config.min_rows} held-out rows; lower it, or raise dataset.test_prompts"
        raise ConfigError("shift.min_rows", f"{labels.column} makes {len(present)} groups, and {few}")
    reserved = {*RESERVED_TARGETS, *([OTHER] if len(large) < len(present) else [])}
    for name in sorted(reserved & set(large)):
        raise ConfigError("shift.by", f"{labels.column} has the value {name!r}, which is taken; map it to another")


@dataclass(frozen=True)
class _Shares:
    """Reads shares of groups out of a config."""

    labels: Labels
    names: tuple[str, ...]
    observed: np.ndarray
    small: Sequence[str]
    min_rows: int
    measured: Sequence[str]

    def nominal(self, value: Any) -> np.ndarray:
        if value is None:
            value = self.labels.nominal
        if value == "observed":
            return self.observed
        return self.read(value, "shift.nominal")

    def targets(self, value: Any) -> dict[str, np.ndarray]:
        populations: dict[str, np.ndarray] = {}
        for mode in value if isinstance(value, list) and value else [value or "each"]:
            more = self._mode(mode)
            for name in populations.keys() & more.keys():
                if not np.array_equal(populations[name], more[name]):
                    raise ConfigError(f"shift.targets.{name}", "is the name of two targets; choose another")
            populations |= more
        return populations

    def _mode(self, mode: str | Mapping[str, Any]) -> dict[str, np.ndarray]:
        if isinstance(mode, Mapping):
            return {str(name): self.read(shares, f"shift.targets.{name}") for name, shares in mode.items()}
        ones = dict(zip(self.names, np.eye(len(self.names)), strict=True))
        alone = {name: ones[name] for name in self.measured}
        if mode in ("each", "worst"):
            return alone
        if mode == "uniform":
            return {"uniform": np.full(len(self.names), 1 / len(self.names))}
        rest = {f"without {name}": np.where(one > 0, 0.0, self.observed) for name, one in alone.items()}
        return {name: shares / shares.sum() for name, shares in rest.items() if shares.sum() > 0}

    def read(self, value: Any, key: str) -> np.ndarray:
        """Shares ``[C]`` from ``{group: share}``."""
        if not isinstance(value, Mapping):
            raise ConfigError(key, f"{value!r} is no mapping of groups to shares, such as {{{self.names[0]}: 1}}")
        shares = np.zeros(len(self.names))
        for name, share in value.items():
            name = str(name)
            if name in self.small:
                few = f"has fewer than shift.min_rows={self.min_rows} held-out rows and is pooled into {OTHER!r}"
                raise ConfigError(key, f"{name!r} {few}; lower shift.min_rows")
            if name not in self.names:
                raise ConfigError(key, f"no group {name!r} in {self.labels.column}; there are: {choices(self.names)}")
            shares[self.names.index(name)] += float(share)
        return shares
