"""From preference pairs to groups of people, where nobody labelled the people.

A *grouping* looks at pairs (features of the frozen reference, annotator ids, vote shares, columns, losses of an early
policy) and says to what degree each pair belongs to each of K groups: a membership ``[N, K]`` whose rows sum to 1. With
it comes its evidence: what can be said, without any label, about whether the groups are there.

``GROUPINGS`` holds every grouping by name; their dataclass fields are the keys of the config ``groups``. A new one is
one new module in ``methods/`` and one yaml under ``conf/groups``.
"""

from __future__ import annotations

from robustalign.groups.config import GROUPINGS, build_grouping
from robustalign.groups.evidence import Evidence, weigh_evidence
from robustalign.groups.grouping import Grouping, Groups, PairData
from robustalign.groups.pair_groups import PairGroups

__all__ = ["GROUPINGS", "Evidence", "Grouping", "Groups", "PairData", "PairGroups", "build_grouping", "weigh_evidence"]
