"""The interval of a worst case: what was picked because it was the worst looks worse than it is."""

from __future__ import annotations

import numpy as np


def worst_interval(draws: np.ndarray, better: int, confidence: float) -> tuple[float, float]:
    """A confidence interval of the worst of ``T`` values, which holds whichever of them is the worst in truth.

    It is the max-t interval: with c the quantile of ``max_t |draw_t - value_t| / sd_t``, all the intervals
    ``value_t -+ c sd_t`` hold at once with the asked confidence, and where they do, the worst truth lies between the
    worst of their lower and the worst of their upper ends. So it needs no knowledge of which target is the worst, and
    pays for the picking with width. Where one target is far worse than all others it is wider than need be, as c grows
    like sqrt(2 log T).

    Args:
        draws: ``[1 + D, T]`` the values, then their bootstrap draws.
        better: 1 where more is better, -1 where less is.
        confidence: in (0, 1).

    Returns:
        Low and high; nan where a value is no number.
    """
    value, again = better * draws[0], better * draws[1:]
    again = again[np.isfinite(again).all(1)]
    if not np.isfinite(value).all() or len(again) < 2:
        return float("nan"), float("nan")
    sd = again.std(0, ddof=1)
    t = np.abs(again - value) / np.where(sd > 0, sd, 1.0)
    c = float(np.quantile(t.max(1), confidence))
    ends = float((value - c * sd).min()), float((value + c * sd).min())
    low, high = sorted(better * end for end in ends)
    return low, high
