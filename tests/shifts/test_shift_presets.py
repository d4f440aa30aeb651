"""The shifts between scorers that ship: they compose, and each target has its divergence from the nominal."""

from __future__ import annotations

import numpy as np
import pytest

from robustalign.config import PairsConfig, config_dir
from robustalign.errors import ConfigError
from robustalign.pipeline.checks import check_config
from robustalign.shifts import ScorerShift, Standards
from robustalign.shifts.preferences import draw_pairs
from tests.conftest import compose_config

POPULATIONS = [
    path.stem
    for path in sorted((config_dir() / "shift").glob("*.yaml"))
    if "combine: population" in path.read_text(encoding="utf-8") or path.stem.startswith("visible_")
]


def preset(name: str) -> tuple[ScorerShift, dict[str, np.ndarray]]:
    labels = ["dataset.pairs.rule=bradley_terry"] if name == "annotator_temperature" else []
    config = compose_config(f"shift={name}", *labels)
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


def test_undecided_people_label_at_their_own_temperature() -> None:
    """P(the better is chosen) = sigmoid(gap / (rule's x own temperature))."""
    shift, scores = preset("annotator_temperature")
    rule = PairsConfig(rule="bradley_terry", temperature=0.5, min_gap=0.0)
    scores = {name: np.tile(values, (25, 1)) for name, values in scores.items()}
    texts = [[f"reply {i} {j}" for j in range(4)] for i in range(5000)]
    for index, people in enumerate(shift.components):
        pairs = draw_pairs(people, index, scores, texts, [""] * 5000, rule, per_prompt=1, seed=1)
        utility = people.utility(scores)
        gap = utility[pairs.prompt, pairs.chosen] - utility[pairs.prompt, pairs.rejected]
        sure = 1 / (1 + np.exp(-np.abs(gap) / (0.5 * people.temperature)))
        assert np.mean(gap > 0) == pytest.approx(sure.mean(), abs=4 * np.sqrt(0.25 / len(gap)))
    assert [people.temperature for people in shift.components] == [4.0, 1.0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("shift=annotator_temperature",),
            r"shift\.temperatures: needs shift\.combine=population and dataset\.pairs\.rule",
        ),
        (("shift=conflicting", "shift.temperatures=[1]"), r"shift\.temperatures: needs one number for each of"),
        (("shift=conflicting", "shift.temperatures=[1,0]"), r"shift\.temperatures"),
    ],
)
def test_temperatures_that_mean_nothing_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config(*overrides)


def test_the_same_people_of_other_prompts_are_another_group() -> None:
    shift, scores = preset("prompt_domain")
    texts = [[f"reply {i} {j}" for j in range(4)] for i in range(200)]
    groups = ["question" if i % 3 == 0 else "statement" for i in range(200)]
    rule = PairsConfig(rule="argmax", min_gap=0.0)
    of_groups = [
        draw_pairs(people, index, scores, texts, groups, rule, per_prompt=1, seed=1)
        for index, people in enumerate(shift.components)
    ]
    assert [people.name for people in shift.components] == ["joy of statement", "joy of question"]
    assert [{groups[prompt] for prompt in pairs.prompt} for pairs in of_groups] == [{"statement"}, {"question"}]
    for index, people in enumerate(shift.components):
        np.testing.assert_array_equal(people.utility(scores), shift.components[0].utility(scores)), index
    with pytest.raises(ConfigError, match=r"shift\.groups: .* names one twice"):
        compose_config("shift=prompt_domain", "shift.groups=[question,question]")
    with pytest.raises(ConfigError, match=r"shift\.objectives: .* names one twice"):
        compose_config("shift=prompt_domain", "shift.visible='false'")
