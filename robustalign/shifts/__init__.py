"""Shifts: the same candidates seen by other people."""

from robustalign.shifts.preferences import Component, Pairs, Shift, Standards, draw_pairs

__all__ = ["Component", "Pairs", "Shift", "Standards", "draw_pairs"]
