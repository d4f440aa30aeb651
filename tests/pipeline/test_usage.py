"""Peaks of stages, one inside the other."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from robustalign.pipeline.usage import Usage

MB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are forgotten on Linux alone")
def test_every_stage_has_its_own_peak():
    usage = Usage()
    with usage.stage("quiet"):
        time.sleep(0.01)
    with usage.stage("outer"):
        held = np.ones(100 * MB, np.uint8)
        with usage.stage("inner"):
            assert np.ones(300 * MB, np.uint8).sum() == 300 * MB  # given back at once
        held[0] = 2
    with usage.stage("after"):
        del held
    quiet = usage.memory["quiet"]
    assert usage.memory["outer"] - quiet == pytest.approx(100 * MB, abs=30 * MB)
    assert usage.memory["inner"] - quiet == pytest.approx(400 * MB, abs=30 * MB)
    assert usage.memory["after"] - quiet == pytest.approx(100 * MB, abs=30 * MB)
    assert usage.seconds["outer"] > usage.seconds["inner"] > 0 and 0.01 < usage.seconds["quiet"] < 1


def test_a_stage_that_raises_is_measured_too():
    usage = Usage()
    with pytest.raises(ValueError), usage.stage("broken"):
        raise ValueError
    assert usage.seconds["broken"] > 0 and usage.memory["broken"] > 0


def test_each_stage_says_that_it_begins_once_for_all_ranks(capsys):
    with Usage().stage("evaluate_40"), Usage(quiet=True).stage("evaluate_40"):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(" evaluate at step 40 ...")
