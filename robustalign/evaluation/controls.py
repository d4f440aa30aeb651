"""Which policy of a run a number belongs to: the trained one, or one of its controls.

A *control* shows what a policy nearer to the reference would do: the trained policy with its margins made smaller, the
policy at an earlier step of training, or the untrained reference itself. Tables name a control in their columns
``control`` and ``step``; this module alone writes and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SHRUNK = "shrink_"


class Kind(StrEnum):
    """The kinds of policies that a run evaluates."""

    TRAINED = "trained"
    STEP = "step"
    SHRUNK = "shrunk"
    REFERENCE = "reference"


@dataclass(frozen=True)
class Control:
    """A policy of a run; use ``TRAINED``, ``REFERENCE``, :func:`at_step` and :func:`shrunk`."""

    kind: Kind
    step: int | None = None
    """Of an earlier step of training."""
    factor: float = 1.0
    """By which the trained policy's margins are multiplied: 1 for the policy at any step, 0 for the reference."""

    def __str__(self) -> str:
        """What the column ``control`` holds: ``policy``, ``shrink_0.5`` or ``reference``."""
        if self.kind is Kind.SHRUNK:
            return f"{SHRUNK}{self.factor:.15g}"
        return "reference" if self.kind is Kind.REFERENCE else "policy"

    def step_of(self, last_step: int) -> int:
        """What the column ``step`` holds, in a run of ``last_step`` optimiser steps."""
        return 0 if self.kind is Kind.REFERENCE else last_step if self.step is None else self.step


TRAINED = Control(Kind.TRAINED)
REFERENCE = Control(Kind.REFERENCE, factor=0.0)


def at_step(step: int, last_step: int) -> Control:
    """The policy after ``step`` optimiser steps; the trained one after the last."""
    return TRAINED if step == last_step else Control(Kind.STEP, step=step)


def shrunk(factor: float) -> Control:
    """The trained policy with its margins times ``factor``, in [0, 1]."""
    return Control(Kind.SHRUNK, factor=factor)


def read_control(text: str, step: int | None = None, last_step: int | None = None) -> Control:
    """The control that a table's columns ``control`` and ``step`` name; without a step that of the trained policy.

    Raises:
        ValueError: no control is written this way.
    """
    if text == "policy":
        return TRAINED if step is None or last_step is None else at_step(step, last_step)
    if text == "reference":
        return REFERENCE
    if text.startswith(SHRUNK):
        return shrunk(float(text.removeprefix(SHRUNK)))
    raise ValueError(f"control: {text!r} is not policy, reference or {SHRUNK}FACTOR")
