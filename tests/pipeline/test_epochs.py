"""``trainer.epochs``: passes over the pairs, which are so many whole batches."""

from __future__ import annotations

import pytest

from robustalign.config import most_pairs
from robustalign.errors import ConfigError
from robustalign.pipeline.training_rows import settle_steps
from robustalign.report.load import Run
from tests.pipeline.test_run import metrics, run, targets

EPOCHS = ("trainer.max_steps=null", "trainer.epochs=1.5", "evaluation.generate=never", "evaluation.splits=[test]")


def test_a_run_of_epochs_is_the_run_of_as_many_steps(small) -> None:
    by_epochs = run(small(*EPOCHS, "evaluation.epochs=[1]"), "epochs")
    told = metrics(by_epochs)
    pairs, steps = int(told[0, "data/pairs"]), int(told[0, "data/steps"])
    assert steps == int(1.5 * pairs / 8) > 2 and told[0, "data/epochs"] == steps * 8 / pairs
    by_steps = run(small(f"trainer.max_steps={steps}", f"evaluation.steps=[{pairs // 8}]", *EPOCHS[2:]), "steps")
    assert metrics(by_steps) == told
    assert targets(by_steps).equals(targets(by_epochs)) and set(targets(by_steps)["step"]) == {0, pairs // 8, steps}
    made = Run("", "", "FINISHED", "", "", "", None, 0.0, by_epochs.frozen(), {"data/steps": steps}, by_epochs.path)
    assert made.last_step == steps, "reports know it too"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trainer.epochs=2",), r"trainer\.epochs: 2 beside trainer\.max_steps=4; add trainer\.max_steps=null"),
        (("trainer.max_steps=null",), r"trainer\.max_steps: is missing; give it, or trainer\.epochs"),
        (("trainer.epochs=0", "trainer.max_steps=null"), r"trainer\.epochs: 0"),
        (
            ("trainer.epochs=2", "trainer.max_steps=null", "evaluation.epochs=[2,3]"),
            r"evaluation\.epochs: 3 is outside \[0, 2\]",
        ),
    ],
)
def test_what_cannot_be_is_one_line(small, overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        small(*overrides)


def test_steps_follow_from_pairs_and_batch(small) -> None:
    config = small("trainer.max_steps=null", "trainer.epochs=8", "evaluation.epochs=[2,4,6]")
    config.trainer.batch_size = 128
    settle_steps(config, 10_160)
    assert config.trainer.steps == 635 and config.evaluation.steps == [158, 317, 476]
    with pytest.raises(ConfigError, match=r"trainer\.epochs: 8 over 15 pairs fill no batch of trainer\.batch_size=128"):
        settle_steps(config, 15)
    late = small("evaluation.epochs=[2]")
    with pytest.raises(ConfigError, match=r"evaluation\.epochs: ends at step 25, training at 4"):
        settle_steps(late, 100)


def test_the_most_pairs_that_are_read(small) -> None:
    assert most_pairs(small()) == 4 * 8
    config = small(*EPOCHS[:2])
    assert most_pairs(config) == int(1.5 * 24 * config.dataset.pairs.per_prompt)
    config.dataset.pairs.limit = 10
    assert most_pairs(config) == 15
    config.dataset.pairs.limit = config.dataset.train_prompts = None
    assert most_pairs(config) is None
