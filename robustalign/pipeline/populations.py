"""How far a run's populations are apart, and which groups of people they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from robustalign.config import PairsConfig
from robustalign.data.candidates import Candidates
from robustalign.shifts import Shift
from robustalign.shifts.columns import ColumnShift
from robustalign.shifts.distances import separability

PROMPTS = 2000  # the most prompts that a classifier is fitted on
COMPONENTS = 64  # principal components of the prompts' features that it uses


def distances(
    shift: Shift, candidates: Mapping[str, Candidates], rule: PairsConfig, embeddings: Tensor, confidence: float
) -> pd.DataFrame:
    """One row a target: ``target``, ``coordinate`` and its distances from the nominal population.

    Of groups of people also how well a classifier tells the target's prompts from the nominal population's, by the mean
    of their tokens' input ``embeddings [V, D]``: ``auc``, ``auc_low``, ``auc_high``. At 1/2 the prompts are alike, and
    the shift is one of people alone.
    """
    columns: dict[str, list] = {"target": list(shift.names)}
    columns["coordinate"] = [shift.coordinate(name) for name in shift.names]
    columns |= shift.distances(candidates, rule)
    if isinstance(shift, ColumnShift):
        features, count = _prompts(shift, candidates, embeddings)
        law = {name: count @ shift.shares(name) for name in shift.names}
        nominal = count @ shift.shares()
        aucs = [separability(features, law[name], nominal, confidence=confidence) for name in shift.names]
        columns |= {name: [row[i] for row in aucs] for i, name in enumerate(("auc", "auc_low", "auc_high"))}
    return pd.DataFrame(columns)


def input_embeddings(model: PreTrainedModel) -> Tensor:
    """``[V, D]``."""
    return cast(nn.Embedding, model.get_input_embeddings()).weight


def _prompts(
    shift: ColumnShift, candidates: Mapping[str, Candidates], embeddings: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Features ``[U, 64]`` of distinct prompts, and ``[U, C]``: which share of a component's comparisons each has."""
    index: dict[tuple[int, ...], int] = {}
    prompt, member = [], []
    for rows in candidates.values():
        prompt += [index.setdefault(tuple(ids), len(index)) for ids in rows.prompt_ids]
        member.append(shift.members(rows.columns))
    groups, components = np.concatenate(member), len(shift.components)
    count = np.zeros((len(index), components))
    np.add.at(count, (np.array(prompt)[groups >= 0], groups[groups >= 0]), 1)
    count /= np.maximum(count.sum(0), 1)
    chosen = np.random.default_rng(0).permutation(len(index))[:PROMPTS]
    texts = list(index)
    table = embeddings.detach().float().cpu()
    means = torch.stack([table[torch.tensor(texts[i])].mean(0) for i in chosen]).double().numpy()
    centred = means - means.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return u[:, :COMPONENTS] * s[:COMPONENTS], count[chosen]


def groups(shift: ColumnShift) -> pd.DataFrame:
    """``group``, the ``component`` that it is part of, and its rows in each split."""
    names = [component.name for component in shift.components]
    rows = [{"group": label, "component": names[shift.place[label]], **counts} for label, counts in shift.rows.items()]
    return pd.DataFrame(rows)
