"""A policy's implicit reward on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from robustalign.data.candidates import Candidates
from robustalign.evaluation.metrics import PAIR_METRICS, Cell
from robustalign.policies.logprobs import score_completions
from robustalign.shifts import Pairs
from robustalign.shifts.shift import Named


class HeldOutPairs:
    """Every component's pairs of one split; each candidate they touch is scored once.

    ``unit [P]``: which of the rows' ``U`` units (a prompt, an item) a row belongs to; by default its own.
    """

    def __init__(
        self,
        candidates: Candidates,
        components: Sequence[Named],
        pairs: Sequence[Pairs],
        unit: np.ndarray | None = None,
    ) -> None:
        self.candidates, self.components, self.pairs = candidates, components, pairs
        self.unit = np.arange(len(candidates)) if unit is None else unit
        touched = np.zeros(candidates.reference_logps.shape, dtype=bool)
        for part in pairs:
            touched[part.prompt, part.chosen] = touched[part.prompt, part.rejected] = True
        self.rows = np.argwhere(touched)

    def logratios(self, model: nn.Module, *, pad: int, batch_size: int) -> np.ndarray:
        """``[P, n]`` fp64: log pi / ref of every candidate that a pair touches, nats; nan elsewhere."""
        prompts, replies = self.candidates.prompt_ids, self.candidates.reply_ids
        logps = score_completions(
            model,
            [prompts[p] for p, _ in self.rows],
            [replies[p][r] for p, r in self.rows],
            pad=pad,
            batch_size=batch_size,
            progress="log-probs of held-out pairs",
        )
        ratios = np.full(self.candidates.reference_logps.shape, np.nan)
        at = tuple(self.rows.T)
        ratios[at] = logps.double().numpy() - self.candidates.reference_logps[at]
        return ratios

    def cells(self, logratios: np.ndarray, beta: float, shrink: float = 1.0) -> dict[str, dict[str, Cell]]:
        """Every metric of pairs by component that has any, with margins times ``shrink``.

        People's comparisons count by their votes, each on its own side.

        Args:
            logratios: ``[P, n]`` of the policy, as :meth:`logratios` gives them.
            beta: of DPO's implicit reward.
            shrink: in [0, 1].
        """
        cells: dict[str, dict[str, Cell]] = {metric.name: {} for metric in PAIR_METRICS}
        for component, pairs in zip(self.components, self.pairs, strict=True):
            if not len(pairs):
                continue
            margin = logratios[pairs.prompt, pairs.chosen] - logratios[pairs.prompt, pairs.rejected]
            weight = np.ones(len(pairs)) if pairs.weight is None else pairs.weight
            unit, size = self.unit[pairs.prompt], int(self.unit.max(initial=-1)) + 1
            count = np.bincount(unit, weights=weight, minlength=size)
            for metric in PAIR_METRICS:
                values = metric.of_votes(shrink * margin, beta, pairs.soft_label)
                total = np.bincount(unit, weights=weight * values, minlength=size)
                cells[metric.name][component.name] = Cell(total, count)
        return cells
