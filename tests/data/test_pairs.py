"""Batches, and an order of training that nothing but the seed decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset

from robustalign.data.candidates import Candidates
from robustalign.data.pairs import PairCollator, PairColumns, TrainingRows
from robustalign.shifts import Pairs


def rows(seed: int = 0, steps: int = 5, batch_size: int = 4, weight=None, early=()) -> TrainingRows:
    table = Dataset.from_dict({"prompt_ids": [[1, 5], [1, 6, 7]], "reply_ids": [[[8, 2], [9, 9, 2]], [[3, 2], [2]]]})
    candidates = Candidates(table, {}, np.array([[-1.0, -2.0], [-3.0, -4.0]], dtype=np.float32))
    index = np.arange(6) % 2
    pairs = Pairs(index, index * 0, index * 0 + 1, np.ones(6), index, {})
    columns = PairColumns({} if weight is None else {"weight": weight}, *early)
    return TrainingRows(pairs, candidates, columns, steps=steps, batch_size=batch_size, seed=seed)


def test_every_epoch_is_a_new_permutation_and_the_seed_decides() -> None:
    order = rows().order
    assert len(order) == 20 and rows().epochs == 20 / 6
    for epoch in range(3):
        assert sorted(order[epoch * 6 : epoch * 6 + 6]) == list(range(6))
    assert (order[:6] != order[6:12]).any()
    assert (order == rows().order).all() and (order != rows(seed=1).order).any()
    assert (rows(steps=10, batch_size=2).order == order).all(), "the cut into steps does not change the order"


def test_a_batch_holds_chosen_rows_then_rejected_rows() -> None:
    data = rows(weight=np.arange(6.0))
    examples = [data[i] for i in range(4)]
    batch = PairCollator(pad=0)(examples)
    ids = [row[mask].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    assert ids == [e["prompt"] + e["chosen"] for e in examples] + [e["prompt"] + e["rejected"] for e in examples]
    assert torch.equal(batch["weight"], torch.tensor([float(data.order[i]) for i in range(4)]))
    expected = [e["reference"][0] for e in examples] + [e["reference"][1] for e in examples]
    assert batch["ref_logps"].tolist() == [float(x) for x in expected]


@pytest.mark.parametrize("early", [None, np.arange(6.0)])
def test_weights_hold_from_their_step_on(early) -> None:
    later = 10 + np.arange(6.0)
    weighted = rows(weight=later, early=(3, early))
    found = [weighted[i]["weight"] for i in range(20)]
    order = weighted.order.tolist()
    assert found[:12] == [1.0 if early is None else early[i] for i in order[:12]]
    assert found[12:] == [later[i] for i in order[12:]]


def test_hidden_columns_stay_hidden() -> None:
    batch = PairCollator(pad=0)([rows()[0]])
    assert "weight" not in batch and "group" not in batch and "annotator" not in batch


def test_fingerprint_sees_tokens_and_order() -> None:
    assert rows().fingerprint == rows().fingerprint != rows(seed=1).fingerprint
