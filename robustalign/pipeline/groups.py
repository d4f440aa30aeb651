"""The stage between pairs and training: the groups of the pairs, and the evidence for them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from robustalign.config import Config
from robustalign.data.candidates import Candidates
from robustalign.data.pairs import PairColumns, TrainingRows
from robustalign.errors import ConfigError
from robustalign.files import replace_text
from robustalign.groups import Evidence, Grouping, PairData, PairGroups, build_grouping, weigh_evidence
from robustalign.groups.config import explained
from robustalign.groups.grouping import Groups
from robustalign.pipeline.stages import Stages
from robustalign.policies.features import reply_features
from robustalign.policies.load import with_adapters
from robustalign.policies.logprobs import score_completions
from robustalign.shifts import Pairs
from robustalign.training.first_run import first_run
from robustalign.training.objective import build_objective

TO_READ = 20  # pairs of each group
LAST_QUARTER = 4  # a group's attainable loss is the mean over the last 1/4 of the steps of its run


class GroupStage:
    """Finds the groups of a run's training pairs, once for all runs that have the same pairs and options."""

    def __init__(self, stages: Stages, pairs: Pairs, candidates: Candidates) -> None:
        self.stages, self.pairs, self.candidates = stages, pairs, candidates
        self.config: Config = stages.config
        self.grouping: Grouping = build_grouping(self.config.groups)

    @cached_property
    def key(self) -> dict[str, Any]:
        """The key of the memberships in the cache: all that they depend on."""
        digest = hashlib.sha256()
        for column in (self.pairs.prompt, self.pairs.chosen, self.pairs.rejected, self.pairs.annotator):
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        key = {
            "version": 1,
            "candidates": self.stages.candidates_folder("train").name,
            "model": self.stages.model_key,
            "pairs": digest.hexdigest()[:20],
            "grouping": {"name": self.grouping.name, **asdict(self.grouping)},  # type: ignore[call-overload]
        }
        return key | (self.training_key if "losses" in self.grouping.needs else {})

    @property
    def training_key(self) -> dict[str, Any]:
        """The part of the key for groupings that train a first run: all that this depends on beside the pairs."""
        left_out = {
            "save_steps",
            "save_total_limit",
            "save_model",
            "nproc",
            "parallel",
            "threads",
            "device",
            "log_steps",
        }
        trainer = {name: value for name, value in vars(self.config.trainer).items() if name not in left_out}
        return {"trainer": trainer, "lora": asdict(self.config.model.lora), "seed": self.config.seed}

    def groups(self) -> PairGroups:
        """The groups, or one of all pairs where evidence is required and missing.

        Raises:
            ConfigError: the pairs cannot serve the grouping.
        """
        if self.grouping.name == "none":
            result = self.grouping.find(PairData(prompt=self.pairs.prompt))
            return PairGroups(result.membership, weigh_evidence(result, self.pairs.prompt, {}))
        folder = self.stages.cache.get("groups", self.key, self._build)
        membership = load_file(folder / "groups.safetensors")["membership"]
        evidence = Evidence.load(json.loads((folder / "evidence.json").read_text()))
        groups = PairGroups(membership, evidence)
        if len(evidence.names) > 1 and self.config.groups.get("require_evidence") and not evidence.believable:
            return replace(groups, membership=np.ones((len(membership), 1)), dismissed=True)
        return groups

    def _build(self, target: Path) -> None:
        data = self._data()
        result: Groups = explained(lambda: self.grouping.find(data))
        evidence = weigh_evidence(result, data.prompt, data.columns)
        save_file({"membership": np.ascontiguousarray(result.membership)}, target / "groups.safetensors")
        (target / "evidence.json").write_text(json.dumps(asdict(evidence), indent=1) + "\n")

    def _data(self) -> PairData:
        needs, pairs = self.grouping.needs, self.pairs
        columns = pair_columns(self.stages, pairs, self.candidates)
        share = columns.get("vote_share")
        if "vote_share" in needs and share is None:
            raise ConfigError("groups.method", f"{self.grouping.name} needs vote shares, which these data have not")
        _, prompt = np.unique([repr(ids) for ids in self.candidates.prompt_ids], return_inverse=True)
        return PairData(
            prompt=prompt[pairs.prompt],
            features=self._features() if "features" in needs else None,
            columns=columns,
            vote_share=None if share is None else share.astype(np.float64),
            losses=self._losses() if "losses" in needs else None,
        )

    def _features(self) -> np.ndarray:
        """Features of chosen minus rejected, ``[N, D]``; each reply is computed once."""
        touched = np.unique(np.concatenate([self._flat(self.pairs.chosen), self._flat(self.pairs.rejected)]))
        prompts, replies, width = self.candidates.prompt_ids, self.candidates.reply_ids, self._width
        phi = explained(
            lambda: reply_features(
                self.stages.reference,
                [prompts[i // width] for i in touched],
                [replies[i // width][i % width] for i in touched],
                self.grouping.layers,
                pad=self.stages.tokenizer.pad_token_id,
                batch_size=self.config.evaluation.batch_size,
                progress="features of replies",
            ).numpy()
        )
        chosen, rejected = (np.searchsorted(touched, self._flat(c)) for c in (self.pairs.chosen, self.pairs.rejected))
        return phi[chosen].astype(np.float64) - phi[rejected]

    @cached_property
    def _width(self) -> int:
        return int(self.candidates.reference_logps.shape[1])

    def _flat(self, reply: np.ndarray) -> np.ndarray:
        return self.pairs.prompt * self._width + reply

    def _rows(self, steps: int, weight: np.ndarray | None = None) -> TrainingRows:
        columns = PairColumns({} if weight is None else {"weight": weight})
        size = self.config.trainer.batch_size
        return TrainingRows(self.pairs, self.candidates, columns, steps=steps, batch_size=size, seed=self.config.seed)

    def _policy(self) -> Any:
        return with_adapters(self.stages.new_model(), self.config.model, self.config.seed)

    def _losses(self) -> np.ndarray:
        """``[N]`` of every pair under the grouping's first run."""
        early = self.grouping.first_run()
        objective, steps, policy = build_objective(early["method"]), early["steps"], self._policy()
        pad = self.stages.tokenizer.pad_token_id
        first_run(policy, self._rows(steps), objective, self.config.trainer, steps=steps, pad=pad)
        prompts, replies = self.candidates.prompt_ids, self.candidates.reply_ids
        ratios = []
        for reply in (self.pairs.chosen, self.pairs.rejected):
            places = list(zip(self.pairs.prompt.tolist(), reply.tolist(), strict=True))
            logps = score_completions(
                policy,
                [prompts[p] for p, _ in places],
                [replies[p][r] for p, r in places],
                pad=pad,
                batch_size=self.config.evaluation.batch_size,
                progress="losses of a first run",
            ).numpy()
            ratios.append(logps - self.candidates.reference_logps[self.pairs.prompt, reply])
        return np.logaddexp(0.0, -objective.beta * (ratios[0] - ratios[1]).astype(np.float64))

    def attainable(self, groups: PairGroups) -> list[float]:
        """Loss that a run for each group alone attains: its mean over the last quarter of the steps, on pairs that it
        had not seen where the run is within one epoch."""
        method = {k: v for k, v in self.config.method.items() if k in ("name", "loss", "beta")} | {"set": "nominal"}
        steps, pad = self.config.trainer.steps, self.stages.tokenizer.pad_token_id
        key = self.key | self.training_key | {"method": method, "groups": groups.membership.shape[1]}

        def build(target: Path) -> None:
            attainable = []
            for column in groups.membership.T:
                rows = self._rows(steps, column if column.any() else None)
                objective = build_objective(method)
                losses = first_run(self._policy(), rows, objective, self.config.trainer, steps=steps, pad=pad)
                attainable.append(float(np.nanmean(losses[-max(1, steps // LAST_QUARTER) :])))
            (target / "attainable.json").write_text(json.dumps(attainable) + "\n")

        folder = self.stages.cache.get("attainable", key, build)
        return list(json.loads((folder / "attainable.json").read_text()))

    def save(self, groups: PairGroups, folder: Path) -> list[str]:
        """Write the evidence, and pairs of each group to read; the names of the files."""
        sample = self.to_read(groups)
        saved = {"dismissed": groups.dismissed, "evidence": asdict(groups.evidence)}
        replace_text(folder / "groups.json", json.dumps(saved, indent=1) + "\n")
        replace_text(folder / "groups.md", groups.page(sample))
        replace_text(folder / "groups.csv", sample.to_csv(index=False, float_format="%.10g"))
        return ["groups.json", "groups.md", "groups.csv"]

    def to_read(self, groups: PairGroups) -> pd.DataFrame:
        """Pairs of each group, drawn in proportion to membership."""
        rng, texts = np.random.default_rng(self.config.seed), self.candidates.table["replies"][:]
        prompts, parts = self.candidates.prompt_texts, []
        for k, name in enumerate(groups.evidence.names if not groups.dismissed else ("all",)):
            weight = groups.membership[:, k]
            count = min(TO_READ, int((weight > 0).sum()))
            if not count:
                continue
            for i in rng.choice(len(weight), size=count, replace=False, p=weight / weight.sum()):
                p = self.pairs.prompt[i]
                row = (name, weight[i], prompts[p], texts[p][self.pairs.chosen[i]], texts[p][self.pairs.rejected[i]])
                parts.append(row)
        return pd.DataFrame(parts, columns=["group", "membership", "prompt", "chosen", "rejected"])


def pair_columns(stages: Stages, pairs: Pairs, candidates: Candidates) -> dict[str, np.ndarray]:
    """The columns of each pair, ``[N]`` by name; numbers as floats, the rest as text."""
    chosen, rejected = (
        candidates.reference_logps[pairs.prompt, c].astype(np.float64) for c in (pairs.chosen, pairs.rejected)
    )
    replies = candidates.reply_ids
    length = [
        len(replies[p][c]) - len(replies[p][r])
        for p, c, r in zip(pairs.prompt.tolist(), pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)
    ]
    names = np.array([component.name for component in stages.shift.components])
    columns = {name: values[pairs.prompt] for name, values in candidates.columns.items()}
    if pairs.soft_label is not None:
        columns["vote_share"] = pairs.soft_label
    return columns | {
        "population": names[pairs.annotator],
        "group": np.array(candidates.table["group"][:], dtype=str)[pairs.prompt],
        "reference_margin": chosen - rejected,
        "reference_logp": chosen,
        "length": np.array(length, dtype=np.float64),
    }
