"""The report in one small table: each point against dpo, against a smaller step, and what that comes to."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robustalign.report.claims import Claim
from robustalign.report.settings import Setting
from robustalign.report.summary import percent, verdict_of
from robustalign.report.tables import text


def headline(setting: Setting, claims: Sequence[Claim]) -> pd.DataFrame:
    """One row a point but dpo, in the metric that comes first; text, more is better in every difference."""
    rows = []
    for point in setting.others:
        of_point = [claim for claim in claims if claim.label == point.label]
        if not of_point:
            continue
        first = of_point[0]
        cells = {
            f"worst-case {first.metric} - dpo's": text(first.worst, sign=True, digits=2),
            "beyond a smaller step": text(first.shrinkage, sign=True, digits=2),
            "nominal - dpo's": text(first.nominal, sign=True, digits=2),
            "way to the oracle": percent(first.gap_closed) if first.gap_closed and not point.oracle else "-",
        }
        rows.append({"": point.label, **cells, "verdict": verdict_of(point, of_point)})
    return pd.DataFrame(rows)
