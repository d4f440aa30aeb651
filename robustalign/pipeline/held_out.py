"""One split's held-out candidates and pairs, and the metrics of a policy on them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from robustalign import fingerprints
from robustalign.data.candidates import Candidates
from robustalign.data.pairs import evaluation_pairs
from robustalign.errors import ConfigError
from robustalign.evaluation import metrics
from robustalign.evaluation.certificates import held_out_certificates
from robustalign.evaluation.generated import generated_cells
from robustalign.evaluation.implicit import HeldOutPairs
from robustalign.evaluation.metrics import Cell
from robustalign.pipeline.people import SplitPeople
from robustalign.pipeline.stages import Stages, evaluation_sampling


class HeldOut:
    """Measures any policy on one split.

    Args:
        stages: of the run's config.
        split: validation or test.
        beta: of the implicit reward.
    """

    def __init__(self, stages: Stages, split: str, beta: float) -> None:
        self.stages, self.split, self.beta = stages, split, beta
        self.config, self.shift = stages.config, stages.shift
        self.candidates = stages.candidates(split)
        self.replies: list[list[str]] = []
        per, rule = self.config.evaluation.pairs_per_prompt, self.config.dataset.pairs
        pairs = evaluation_pairs(self.shift, self.candidates, rule, per, self.config.dataset.seed)
        if not any(len(part) for part in pairs):
            raise ConfigError("dataset.pairs.min_gap", "leaves no held-out pair")
        unit = self.units()
        self.pairs = HeldOutPairs(self.candidates, self.shift.components, pairs, unit)
        chosen_by_people = all(part.weight is not None for part in pairs)
        evaluation = self.config.evaluation
        self.people = SplitPeople(self.candidates, pairs, self.shift, unit, evaluation) if chosen_by_people else None

    @cached_property
    def each_prompt(self) -> Candidates:
        """The candidates with each prompt once, however many comparisons of its replies there are."""
        if self.config.dataset.source != "preferences":
            return self.candidates
        _, first = np.unique(self.candidates.judged.prompt, return_index=True)
        table, logps = self.candidates.table.select(first), self.candidates.reference_logps[first]
        return Candidates(table, {name: scores[first] for name, scores in self.candidates.scores.items()}, logps)

    def units(self) -> np.ndarray:
        """``[P]`` what the bootstrap draws: each prompt, or all comparisons of a prompt or an item together."""
        if self.config.dataset.source != "preferences":
            return np.arange(len(self.candidates))
        judged = self.candidates.judged
        return judged.item if self.config.evaluation.resample == "items" else judged.prompt

    def sample(self, prompts: int = 20) -> pd.DataFrame:
        """Replies to the first prompts, beside the last turn of each prompt, for people to read."""
        prompt_texts = self.each_prompt.prompt_texts[:prompts]
        rows = [(self.split, p, text) for p, texts in zip(prompt_texts, self.replies, strict=False) for text in texts]
        return pd.DataFrame(rows, columns=["split", "prompt", "reply"])

    def logratios(self, policy: PreTrainedModel) -> np.ndarray:
        """``[P, n]`` log pi / ref of every candidate that a pair touches, nats."""
        pad = self.stages.tokenizer.pad_token_id
        return self.pairs.logratios(policy, pad=pad, batch_size=self.config.evaluation.batch_size)

    def cells(self, logratios: np.ndarray, shrink: float = 1.0) -> dict[str, dict[str, Cell]]:
        """Metrics of pairs for known log-ratios, times ``shrink``."""
        return self.pairs.cells(logratios, self.beta, shrink)

    def certificates(self, logratios: np.ndarray) -> pd.DataFrame:
        """Worst-case losses around the nominal population's held-out pairs, with their controls."""
        confidence = self.config.evaluation.confidence
        certificates = held_out_certificates(self.pairs.pairs, self.shift, logratios, self.beta, confidence=confidence)
        return certificates.assign(split=self.split)

    def reference_cells(self) -> dict[str, dict[str, Cell]]:
        """Metrics of the untrained policy, computed once for all runs of a sweep."""
        stages, config = self.stages, self.config
        key = {
            "version": 2,
            "candidates": stages.candidates_folder(self.split).name,
            "scores": stages.scores_folder("train").name,
            "shift": {key: value for key, value in vars(config.shift).items() if key != "name"},
            "populations": self.shift.record(),
            "resample": config.evaluation.resample,
            "metrics": fingerprints.of_files(Path(metrics.__file__).parent.glob("*.py")),
            "pairs": [vars(config.dataset.pairs).copy(), config.evaluation.pairs_per_prompt],
            "replies": 0 if config.evaluation.generate == "never" else config.evaluation.replies,
            "sampling": vars(evaluation_sampling(config)).copy(),
            "seed": config.dataset.seed,
        }

        def build(target: Path) -> None:
            flat = {
                f"{metric}/{component}/{part}": np.asarray(getattr(cell, part), dtype=np.float64)
                for metric, components in self._untrained().items()
                for component, cell in components.items()
                for part in ("total", "count")
            }
            save_file(flat, target / "cells.safetensors")

        flat = load_file(stages.cache.get("reference_cells", key, build) / "cells.safetensors")
        cells: dict[str, dict[str, Cell]] = {}
        for name in sorted({key.rsplit("/", 1)[0] for key in flat}):
            metric, component = name.split("/", 1)
            cells.setdefault(metric, {})[component] = Cell(flat[f"{name}/total"], flat[f"{name}/count"])
        return cells

    def _untrained(self) -> dict[str, dict[str, Cell]]:
        """Every margin of the untrained policy is 0, so the loss is ln 2 and every pair a tie."""
        cells = self.cells(np.zeros(self.candidates.reference_logps.shape))
        if self.config.evaluation.generate == "never":
            return cells
        return cells | self.generated(self.stages.reference, self.config.dataset.seed)

    def generated(self, policy: PreTrainedModel, seed: int, shrink: float = 1.0) -> dict[str, dict[str, Cell]]:
        """Metrics of replies that the policy, shrunk towards the reference, gives to every prompt."""
        cells, self.replies = generated_cells(
            policy,
            self.stages.reference,
            self.stages.encoder,
            self.each_prompt,
            self.shift.judges,
            self.stages.score,
            replies=self.config.evaluation.replies,
            sampling=evaluation_sampling(self.config),
            seed=seed,
            shrink=shrink,
        )
        return cells
