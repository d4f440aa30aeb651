"""A long stage says once a minute how far it is, and nothing in between."""

from __future__ import annotations

import re

import pytest

from robustalign import progress
from robustalign.progress import Pace, duration, paced


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_a_minute_with_pace_and_what_is_left(capsys):
    clock = Clock()
    pace = Pace("train", 1000, "steps", done=100, clock=clock)
    for step in range(101, 401):
        clock.now += 0.5
        pace.update(step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\d\d:\d\d:\d\d train: 220 of 1,000 steps, 2 steps/s, 6 min left", lines[0])
    assert lines[1].endswith("340 of 1,000 steps, 2 steps/s, 6 min left")


def test_slow_items_are_told_by_their_seconds(capsys):
    clock = Clock()
    pace = Pace("sweep", 4, "runs", clock=clock)
    clock.now = 300.0
    pace.update(1.5, "dpo: step 4/8")
    assert capsys.readouterr().err.endswith("sweep: 1.5 of 4 runs, 3 min for each, 8 min left; dpo: step 4/8\n")
    pace.update(1.6)
    assert capsys.readouterr().err == ""


def test_items_come_through_and_silence_is_kept(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert list(paced(range(3), None)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(paced(range(3), "sampling")) == [0, 1, 2]
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (89, "89 s"), (150, "2 min"), (7200, "2.0 h")])
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def test_where_nobody_knows_the_total_the_line_says_how_many(capsys):
    clock = Clock()
    pace = Pace("check", None, "comparisons", clock=clock)
    clock.now = 60.0
    pace.update(6000)
    assert capsys.readouterr().err.endswith("check: 6,000 comparisons, 100 comparisons/s\n")
