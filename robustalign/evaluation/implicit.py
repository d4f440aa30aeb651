"""Loss and accuracy of a policy's implicit reward on held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from robustalign.data.candidates import Candidates
from robustalign.evaluation.targets import Cell
from robustalign.objectives import SigmoidLoss
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
        """log pi / ref of every touched candidate, fp64 ``[P, n]``; NaN elsewhere."""
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
        """Loss -log sigmoid(beta h) and accuracy (ties half) per component, with margins h times ``shrink``."""
        found: dict[str, dict[str, Cell]] = {"loss": {}, "accuracy": {}}
        for component, pairs in zip(self.components, self.pairs, strict=True):
            margin = logratios[pairs.prompt, pairs.chosen] - logratios[pairs.prompt, pairs.rejected]
            margin = shrink * margin
            loss = SigmoidLoss(beta=beta).losses(torch.from_numpy(margin)).numpy()
            accuracy = (margin > 0) + 0.5 * (margin == 0)
            for metric, values in (("loss", loss), ("accuracy", accuracy)):
                size = len(self.candidates)
                total = np.bincount(pairs.prompt, weights=values, minlength=size)
                count = np.bincount(pairs.prompt, minlength=size)
                found[metric][component.name] = Cell(total, count)
        return found
