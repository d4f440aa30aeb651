"""Pairs of the same person, and whether persons differ from each other."""

from __future__ import annotations

import numpy as np

from robustalign.groups.taste import halves

FEW = 5  # answers in a half, below which a rate says nothing


def persons_differ(flag: np.ndarray, person: np.ndarray, prompt: np.ndarray) -> bool:
    """Whether the share of flagged pairs belongs to persons: it correlates over two halves of the prompts.

    True where the correlation over persons is at least two standard errors (Fisher's z) above 0. A flag that strikes
    pairs at random does not; with fewer than 8 persons of 5 answers in each half nothing
    can be tested, and the result is True.

    Args:
        flag: ``[N]`` bool; person: ``[N]`` ids; prompt: ``[N]``.
    """
    _, who = np.unique(person, return_inverse=True)
    fold = halves(prompt, seed=1)
    counts = np.stack([np.bincount(who[fold == k], minlength=who.max() + 1) for k in (0, 1)])
    sums = np.stack([np.bincount(who[fold == k], flag[fold == k], minlength=who.max() + 1) for k in (0, 1)])
    enough = (counts >= FEW).all(axis=0)
    if enough.sum() < 8:
        return True
    rates: np.ndarray = sums[:, enough] / counts[:, enough]
    if (rates.std(axis=1) == 0).any():
        return False
    r = float(np.corrcoef(rates)[0, 1])
    return bool(np.arctanh(min(r, 1 - 1e-12)) * np.sqrt(enough.sum() - 3) >= 2)
