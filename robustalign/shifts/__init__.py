"""Shifts: the same candidates seen by other people."""

from robustalign.shifts.pairs import Pairs
from robustalign.shifts.preferences import Component, ScorerShift, Standards, draw_pairs
from robustalign.shifts.shift import Populations, Recorded, Shift

__all__ = ["Component", "Pairs", "Populations", "Recorded", "ScorerShift", "Shift", "Standards", "draw_pairs"]
