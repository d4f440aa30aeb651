"""Presets read the real files that their look-alikes stand for; counts are those that the files' readers published.

The files are not part of the project: ``ROBUSTALIGN_PEOPLE`` names their folder, or ``../shared/people`` holds them.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from robustalign.config import DatasetConfig
from robustalign.data.reading import Reading
from tests.conftest import compose_config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("ROBUSTALIGN_PEOPLE", ROOT.parent / "shared" / "people"))


def read(name: str, file: str, *overrides: str) -> tuple[DatasetConfig, list, Counter[str], int]:
    """The config, the comparisons, what was dropped by reason, and the number of rows."""
    if not (FOLDER / file).is_file():
        pytest.skip(f"the real file {file} is not here (ROBUSTALIGN_PEOPLE names its folder)")
    config = compose_config(f"dataset={name}", f"dataset.path={FOLDER / file}", *overrides).dataset
    reading = Reading(config)
    found = list(reading.comparisons())
    account = reading.place()[1]
    dropped: Counter[str] = Counter()
    for split in account.splits.values():
        dropped.update(split["dropped"])
    return config, found, dropped, account.read


def test_arguments() -> None:
    """16,927 pairs, 84,445 votes: a1 32,849, a2 32,491, equal 19,105; 3,815 workers; 16 debates x 2 sides."""
    _, found, dropped, rows = read("ukp_convarg1", "ukp_convarg1/ukp_convarg1.jsonl.gz")
    assert rows == 16_927 and dropped["tie"] == 19_105
    assert len(found) + dropped["identical replies"] == 32_849 + 32_491
    assert len({c.columns["debate"] for c in found}) == 16 and len({c.columns["topic"] for c in found}) == 32
    assert {c.columns["stance"] for c in found} == {"same", "opposite", "none", ""}
    _, found, _, _ = read("ukp_convarg1", "ukp_convarg1/ukp_convarg1.jsonl.gz", "dataset.ties=half")
    assert len({c.columns["annotator"] for c in found}) == 3_815


def test_humour() -> None:
    """28,118 pairs, 113,638 votes; the majority holds .764 of them."""
    _, found, dropped, rows = read("humour_pairs", "humour_pairs/pairs.jsonl.gz", "dataset.ties=half")
    assert rows == 28_118 == len(found) + dropped["identical replies"]
    assert sum(c.weight for c in found) == 113_638
    assert sum((c.soft_label or 0) * c.weight for c in found) / 113_638 == pytest.approx(0.764, abs=5e-4)


def test_translations() -> None:
    """1,539 segments; strict pairs of one rater: 6,484 and 4,884 (ted), 10,734 and 34,330 (news)."""
    _, found, dropped, rows = read("wmt_mqm", "wmt_mqm/wmt_mqm.jsonl.gz")
    assert rows == 1_539 and len(found) + dropped["identical replies"] == 6_484 + 4_884 + 10_734 + 34_330
    assert {c.columns["language"] for c in found} == {"en-de", "zh-en"}
    assert {c.columns["domain"] for c in found} == {"ted", "news2023_sxs"}


def test_harmless_dialogues() -> None:
    """2,312 rows, of which 5 differ before the last turn."""
    _, found, dropped, rows = read("hh_rlhf", "hh_rlhf_harmless_test/test.jsonl.gz")
    assert rows == 2_312 and dropped["replies part before the last turn"] == 5
    assert len(found) == 2_312 - 5 - dropped["empty reply"] - dropped["identical replies"]
    assert all(c.prompt.turns[-1].role == "user" and c.prompt.turns[0].role == "user" for c in found)
