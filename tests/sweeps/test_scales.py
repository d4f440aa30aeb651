"""One experiment, several sizes."""

from __future__ import annotations

import pytest

from robustalign.config import config_dir
from robustalign.errors import ConfigError
from robustalign.sweeps.hydra import replaced
from robustalign.sweeps.scales import SCALES, scaled, sizes

SEVERAL = sorted(
    folder.name for folder in (config_dir() / "experiment").iterdir() if folder.is_dir() and sizes(folder.name)
)


def test_the_scale_is_part_of_the_experiments_name() -> None:
    assert scaled(["experiment=emotion_alignment", "seed=1"]) == ["experiment=emotion_alignment/small", "seed=1"]
    assert scaled(["scale=paper", "experiment=emotion_alignment"]) == ["experiment=emotion_alignment/paper"]
    assert replaced(["experiment=radius_sweep"]) == ["experiment=radius_sweep"]
    assert scaled(["experiment=emotion_alignment/smoke"]) == ["experiment=emotion_alignment/smoke"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["scale=huge", "experiment=emotion_alignment"],
            r"scale: unknown value 'huge'; choose one of: paper, small, smoke",
        ),
        (
            ["scale=paper", "experiment=radius_sweep"],
            r"scale: the experiment radius_sweep has one size; .*emotion_alignment",
        ),
        (["scale=paper"], r"scale: is of an experiment"),
    ],
)
def test_a_scale_that_is_not_there_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scaled(words)


@pytest.mark.parametrize("experiment", SEVERAL)
def test_experiments_of_several_sizes_have_all_of_them(experiment: str) -> None:
    assert sizes(experiment) == list(SCALES)
