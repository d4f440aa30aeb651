"""The results about people on one split: their agreement, a policy's calibration, and the worst tenth of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from robustalign.config import EvaluationConfig
from robustalign.data.candidates import Candidates
from robustalign.evaluation import people
from robustalign.evaluation.metrics import PAIR_METRICS
from robustalign.evaluation.targets import resample_weights
from robustalign.shifts import Pairs, Shift

COLUMNS = ("control", "split", "step", "target", "metric", "value", "low", "high", "n")
DRAWS = 200  # bootstrap draws of an interval value -+ z sd; its width is then known to about 5 %


class SplitPeople:
    """The people behind one split's held-out pairs.

    Args:
        candidates: of the split.
        pairs: each component's.
        shift: whose populations are measured.
        unit: ``[P]`` what the bootstrap draws, of each comparison.
        config: of the evaluation.
    """

    def __init__(
        self, candidates: Candidates, pairs: Sequence[Pairs], shift: Shift, unit: np.ndarray, config: EvaluationConfig
    ) -> None:
        self.shift, self.config = shift, config
        self.pairs = joined = Pairs.concatenate(pairs)
        assert joined.soft_label is not None and joined.weight is not None
        judges = candidates.columns.get(config.annotator or "")
        self.votes = people.Votes(
            share=joined.soft_label,
            weight=joined.weight,
            member=joined.annotator,
            item=candidates.items[joined.prompt],
            first_share=candidates.first_share[joined.prompt],
            person=np.full(len(joined), "") if judges is None else judges[joined.prompt],
            unit=unit[joined.prompt],
        )
        self.often = resample_weights(int(unit.max()) + 1, DRAWS, 0)

    def margins(self, logratios: np.ndarray) -> np.ndarray:
        """``[N]`` of log-ratios ``[P, n]``."""
        return logratios[self.pairs.prompt, self.pairs.chosen] - logratios[self.pairs.prompt, self.pairs.rejected]

    def tables(self, logratios: np.ndarray, beta: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """A table of agreement, calibration and the worst tenth, and a table of the bins of the calibration."""
        calibration, bins = self.calibration("policy", logratios, beta)
        tables = [self.agreement(), calibration, self.worst_tenth("policy", logratios, beta)]
        return pd.concat([table for table in tables if len(table)], ignore_index=True), bins

    def agreement(self) -> pd.DataFrame:
        """How often people agree with one another: ``COLUMNS`` but for the split and the step."""
        rates = people.agreement(self.votes, self.shift, self.often)
        return self._table("people", people.rows_of(rates, "agreement", self._units(), self.config.confidence))

    def calibration(self, control: str, logratios: np.ndarray, beta: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The calibration error of every population, and the reliability behind it."""
        components = len(self.shift.components)
        reliability = people.reliability(self.margins(logratios), beta, self.votes, components, self.often)
        names = {"nominal": None} | {name: name for name in self.shift.names}
        errors = {name: reliability.error(self.shift.shares(target)) for name, target in names.items()}
        rows = people.rows_of(errors, "calibration", self._units(), self.config.confidence)
        table = people.reliability_table(reliability, self.shift, self.config.confidence)
        return self._table(control, rows), table.assign(control=control)

    def worst_tenth(self, control: str, logratios: np.ndarray, beta: float) -> pd.DataFrame:
        """Every metric of pairs of the worst tenth of people; empty where too few of them are known."""
        rows: list[tuple] = []
        for metric in PAIR_METRICS:
            value = metric.of_votes(self.margins(logratios), beta, self.votes.share)
            draws, ranked = people.worst_tenth(value, self.votes, metric.better, DRAWS)
            if np.isfinite(draws[0]):
                low, high = people.spread(draws, self.config.confidence, metric.low, metric.high)
                rows.append((people.WORST_PEOPLE, metric.name, float(draws[0]), low, high, ranked))
        return self._table(control, rows)

    def _units(self) -> int:
        return len(np.unique(self.votes.unit))

    def _table(self, control: str, rows: list[tuple]) -> pd.DataFrame:
        frame = pd.DataFrame(rows, columns=["target", "metric", "value", "low", "high", "n"])
        return frame.assign(control=control)


def all_splits(
    of_splits: Mapping[str, SplitPeople], logratios: Mapping[str, np.ndarray], beta: float, step: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of :meth:`SplitPeople.tables` over all splits, with ``split`` and ``step``."""
    tables, bins = [], []
    for split, of_split in of_splits.items():
        table, reliability = of_split.tables(logratios[split], beta)
        tables.append(table.assign(split=split, step=step))
        bins.append(reliability.assign(split=split, step=step))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)], pd.concat(bins, ignore_index=True)
