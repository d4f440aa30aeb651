"""Lists in a memory-mapped table are those that were saved."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from robustalign.data.ragged import Chosen, Lists


def test_every_list_is_found_across_chunks_and_selections() -> None:
    rng = np.random.default_rng(0)
    flat = [rng.integers(0, 99, rng.integers(0, 5)).tolist() for _ in range(20)]
    nested = [[flat[i], flat[-i]] for i in range(20)]
    texts = [[str(x) for x in one] for one in flat]
    table = Dataset.from_dict({"flat": flat, "nested": nested, "texts": texts})
    apart = concatenate_datasets([table.select(range(7)), table.select(range(7, 20))])
    for rows, index in ((table, range(20)), (apart, range(20)), (table.select([5, 3, 19, 3]), (5, 3, 19, 3))):
        for name, values in (("flat", flat), ("nested", nested), ("texts", texts)):
            found = Lists.of(rows, name)
            assert found.lengths.tolist() == [len(values[i]) for i in index]
            assert list(found) == [values[i] for i in index] and len(found) == len(index)
        found = Lists.of(rows, "nested")
        assert list(found.inner()) == [one for i in index for one in nested[i]]
        assert list(Chosen(found, np.array([2, 0, 2]))[1:]) == [found[0], found[2]]
    assert Lists.of(table, "flat")[-2] == flat[-2] and Lists.of(table, "nested")[3:9:2] == nested[3:9:2]
    with pytest.raises(IndexError):
        Lists.of(table, "flat")[20]
