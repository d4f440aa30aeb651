"""Whether a policy ran away from the reference."""

from __future__ import annotations

import pandas as pd

from robustalign.evaluation.controls import TRAINED


def ran_away(targets: pd.DataFrame, bound: float | None) -> float | None:
    """The trained policy's largest KL from the reference over the splits, nats a reply, where it is above ``bound``.

    Args:
        targets: a run's results with the columns control, metric and value.
        bound: nats a reply; None: nothing runs away.
    """
    if bound is None:
        return None
    rows = targets[(targets["control"] == str(TRAINED)) & (targets["metric"] == "kl")]
    largest = float(rows["value"].max()) if len(rows) else float("nan")
    return largest if largest > bound else None
