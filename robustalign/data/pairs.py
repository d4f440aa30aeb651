"""Training pairs: drawn from scored candidates, laid out in the order of training, collated into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustalign.config import PairsConfig
from robustalign.data.candidates import Candidates
from robustalign.errors import ConfigError
from robustalign.objectives.terms import DATA_COLUMNS
from robustalign.policies.logprobs import Rows
from robustalign.shifts import Pairs, Shift


def training_pairs(shift: Shift, candidates: Candidates, rule: PairsConfig, seed: int, target: str | None) -> Pairs:
    """Distinct pairs labelled by the nominal population (or ``target``), in random order.

    Every annotator labels the same draws; then so many of each annotator's pairs are kept that their
    shares are the population's, although some annotators see more ties than others.

    Raises:
        ConfigError: no annotator prefers one candidate to another.
    """
    rng = np.random.default_rng([seed, 1])
    shares = shift.shares(target)
    parts = []
    for annotator in np.flatnonzero(shares).tolist():
        pairs_of_member = shift.pairs(candidates, annotator, rule, per_prompt=rule.per_prompt, seed=seed)
        if not len(pairs_of_member):
            name = shift.components[annotator].name
            raise ConfigError("dataset.pairs.min_gap", f"no pair is left for {name} ({_reasons(pairs_of_member)})")
        parts.append(pairs_of_member.take(rng.permutation(len(pairs_of_member))))
    weights = shares[np.flatnonzero(shares)]
    total = min(len(part) / w for part, w in zip(parts, weights, strict=True))
    if rule.limit is not None:
        total = min(total, rule.limit)
    portions = [part.take(np.arange(round(total * w))) for part, w in zip(parts, weights, strict=True)]
    pairs = Pairs.concatenate(portions)
    if not len(pairs):
        raise ConfigError("dataset.pairs.limit", "leaves no pair")
    return pairs.take(rng.permutation(len(pairs)))


def evaluation_pairs(
    shift: Shift, candidates: Candidates, rule: PairsConfig, per_prompt: int, seed: int
) -> list[Pairs]:
    """Each component's pairs of a held-out split, by the training rule, over the same draws."""
    count = len(shift.components)
    return [shift.pairs(candidates, i, rule, per_prompt=per_prompt, seed=seed) for i in range(count)]


def both_ways(pairs: Pairs) -> tuple[Pairs, np.ndarray]:
    """People's comparisons with every vote on its own side, and which comparison ``[M]`` each is from.

    A share s of w votes is a weight of w s for the chosen reply and of w (1 - s) for the other, so that every loss sees
    what it would see of the votes one by one.
    """
    assert pairs.soft_label is not None and pairs.weight is not None
    against = np.flatnonzero(pairs.soft_label < 1)
    turned = pairs.take(against)
    turned = replace(turned, chosen=turned.rejected, rejected=turned.chosen, gap=-turned.gap)
    votes = pairs.weight * pairs.soft_label, (pairs.weight * (1 - pairs.soft_label))[against]
    turned = replace(turned, weight=votes[1], soft_label=1 - pairs.soft_label[against])
    both = Pairs.concatenate([replace(pairs, weight=votes[0]), turned])
    return both, np.concatenate([np.arange(len(pairs)), against])


def _reasons(pairs: Pairs) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in pairs.dropped.items() if count)


@dataclass(frozen=True)
class PairColumns:
    """The columns of ``PairTerms`` that come with the data, and that a method needs beside tokens and log-probs.

    Args:
        known: ``[N]`` or ``[N, K]`` by name; a name that is not among ``DATA_COLUMNS`` reaches no method.
        weight_from: the optimiser step from which ``weight`` holds.
        early_weight: ``[N]`` weights before it; None: 1.
    """

    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    weight_from: int = 0
    early_weight: np.ndarray | None = None


class TrainingRows(Dataset):
    """``steps x batch_size`` examples in the order of training: every epoch a new permutation of the pairs.

    The order is a function of the seed alone, so a resumed run, another micro-batch size or another number
    of ranks sees the same batches.
    """

    def __init__(
        self,
        pairs: Pairs,
        candidates: Candidates,
        columns: PairColumns,
        *,
        steps: int,
        batch_size: int,
        seed: int,
    ) -> None:
        rng = np.random.default_rng([seed, 2])
        epochs = -(-steps * batch_size // len(pairs))
        self.order = np.concatenate([rng.permutation(len(pairs)) for _ in range(epochs)])[: steps * batch_size]
        self.epochs = steps * batch_size / len(pairs)
        self.pairs, self.columns = pairs, {"score_gap": pairs.gap, **columns.known}
        self.weighted_from, self.early_weight = columns.weight_from * batch_size, columns.early_weight
        self.prompts, self.replies = candidates.prompt_ids, candidates.reply_ids
        self.reference = candidates.reference_logps

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> dict:
        row = int(self.order[position])
        prompt, chosen, rejected = (int(c[row]) for c in (self.pairs.prompt, self.pairs.chosen, self.pairs.rejected))
        example = {
            "row": row,
            "prompt": self.prompts[prompt],
            "chosen": self.replies[prompt][chosen],
            "rejected": self.replies[prompt][rejected],
            "reference": (self.reference[prompt, chosen], self.reference[prompt, rejected]),
        }
        for name, column in self.columns.items():
            example[name] = column[row]
        if "weight" in example and position < self.weighted_from:
            example["weight"] = 1.0 if self.early_weight is None else self.early_weight[row]
        return example

    @property
    def fingerprint(self) -> str:
        """Hash of the tokens and their order."""
        digest = hashlib.sha256(self.order.tobytes())
        for i in np.unique(self.order):
            example = [self.pairs.prompt[i], self.pairs.chosen[i], self.pairs.rejected[i]]
            digest.update(np.asarray(example, dtype=np.int64).tobytes())
            prompt, chosen, rejected = map(int, example)
            digest.update(repr((self.prompts[prompt], self.replies[prompt][chosen])).encode())
            digest.update(repr(self.replies[prompt][rejected]).encode())
        return digest.hexdigest()[:16]


@dataclass
class PairCollator:
    """Examples to a batch: rows ``[2B,T]`` (chosen, then rejected) and columns ``[B]``."""

    pad: int

    def __call__(self, examples: Sequence[dict]) -> dict[str, Tensor]:
        prompts = [e["prompt"] for e in examples]
        replies = [e["chosen"] for e in examples] + [e["rejected"] for e in examples]
        rows = Rows.collate(prompts * 2, replies, self.pad)
        reference = torch.tensor([e["reference"] for e in examples], dtype=torch.float32)
        batch = {
            "input_ids": rows.ids,
            "attention_mask": rows.attention,
            "completion_mask": rows.completion,
            "ref_logps": reference.T.reshape(-1),
            "row": torch.tensor([e["row"] for e in examples]),
        }
        return batch | {name: column_of(examples, name) for name in DATA_COLUMNS if name in examples[0]}


def column_of(examples: Sequence[dict], name: str) -> Tensor:
    """A column of the data ``[B]`` or ``[B, K]``: whole numbers as int64, others in fp32."""
    values = np.array([example[name] for example in examples])
    return torch.from_numpy(values.astype(np.int64 if values.dtype.kind in "iub" else np.float32))
