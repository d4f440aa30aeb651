"""The shifts between scorers that ship: they compose, and each target has its divergence from the nominal."""

from __future__ import annotations

import numpy as np
import pytest

from robustalign.config import PairsConfig, config_dir
from robustalign.pipeline.checks import check_config
from robustalign.shifts import ScorerShift, Standards
from tests.conftest import compose_config

POPULATIONS = [
    path.stem
    for path in sorted((config_dir() / "shift").glob("*.yaml"))
    if "combine: population" in path.read_text(encoding="utf-8") or path.stem.startswith("visible_")
]


def preset(name: str) -> tuple[ScorerShift, dict[str, np.ndarray]]:
    config = compose_config(f"shift={name}")
    check_config(config)
    rng = np.random.default_rng(0)
    bases = sorted({objective.removeprefix("-") for objective in config.shift.objectives})
    scores = {base: rng.random((200, 4)) for base in bases}
    return ScorerShift(config.shift, Standards({key: value.ravel() for key, value in scores.items()})), scores


@pytest.mark.parametrize("name", POPULATIONS)
def test_every_target_lies_at_a_finite_divergence(name: str) -> None:
    shift, scores = preset(name)
    assert shift.config.name == name, "the name in tables is the name of the file"
    for target in shift.names:
        kl, tv = shift.kl(target, scores, PairsConfig()), shift.coordinate(target)
        assert np.isfinite(kl) and kl >= 2 * tv**2 - 1e-9, "Pinsker's inequality"
    assert shift.importance(shift.farthest()) is not None, "the oracle can weigh the nominal pairs"


def test_noise_by_group_flips_the_minority_alone() -> None:
    shift, scores = preset("label_noise_by_group")
    ask, joy, flipped = shift.shares()
    assert flipped / (joy + flipped) == pytest.approx(0.3) and joy + flipped == pytest.approx(1 - ask)
    of_joy, of_flipped = (shift.components[index].utility(scores) for index in (1, 2))
    np.testing.assert_allclose(of_joy, -of_flipped)
    clean = shift.kl("clean_joy_0.1", scores, PairsConfig())
    assert clean == pytest.approx(0.1 * np.log(1 / 0.7)), "the shares' closed form: only the minority moves"


def test_the_composed_shift_is_the_product_of_its_parts() -> None:
    shift, scores = preset("noisy_minority")
    np.testing.assert_allclose(shift.shares(), np.outer([0.9, 0.1], [0.9, 0.1]).ravel()[[0, 2, 1, 3]])
    apart = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    total = shift.kl("clean_joy_0.5", scores, PairsConfig())
    assert total == pytest.approx(apart + np.log(1 / 0.9)), "divergences of independent shifts add up"
