"""Lines of what a config allows, though it may not be meant."""

from __future__ import annotations

import pytest

from robustalign.pipeline.checks import check_config
from tests.conftest import compose_config


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("trainer.max_steps=5", "trainer.warmup_steps=9"), ["9 of 5 steps, so the learning rate ends at 50% of its"]),
        (("trainer.max_steps=10", "trainer.warmup_steps=9"), []),
        (("trainer.max_steps=5", "trainer.warmup_steps=0"), []),
    ],
)
def test_a_warm_up_that_does_not_end_is_told(words: tuple[str, ...], expected: list[str]) -> None:
    lines = [line for line in check_config(compose_config(*words)) if line.startswith("trainer.warmup_steps: ")]
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))
