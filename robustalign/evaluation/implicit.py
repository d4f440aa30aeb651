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
    """Every component's pairs of one split; each candidate they touch is scored once."""

    def __init__(self, candidates: Candidates, components: Sequence[Named], pairs: Sequence[Pairs]) -> None:
        self.candidates, self.components, self.pairs = candidates, components, pairs
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
        )
        ratios = np.full(self.candidates.reference_logps.shape, np.nan)
        at = tuple(self.rows.T)
        ratios[at] = logps.double().numpy() - self.candidates.reference_logps[at]
        return ratios

    def cells(self, logratios: np.ndarray, beta: float, shrink: float = 1.0) -> dict[str, dict[str, Cell]]:
        """Every metric of pairs by component, with margins times ``shrink``.

        Args:
            logratios: ``[P, n]`` of the policy, as :meth:`logratios` gives them.
            beta: of DPO's implicit reward.
            shrink: in [0, 1].
        """
        cells: dict[str, dict[str, Cell]] = {metric.name: {} for metric in PAIR_METRICS}
        for component, pairs in zip(self.components, self.pairs, strict=True):
            margin = logratios[pairs.prompt, pairs.chosen] - logratios[pairs.prompt, pairs.rejected]
            count = np.bincount(pairs.prompt, minlength=len(self.candidates))
            for metric in PAIR_METRICS:
                values = metric.of_margins(shrink * margin, beta)
                total = np.bincount(pairs.prompt, weights=values, minlength=len(self.candidates))
                cells[metric.name][component.name] = Cell(total, count)
        return cells
