"""What a run does between optimiser steps."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from robustalign.config import Config
from robustalign.progress import Pace
from robustalign.run.folder import RunFolder
from robustalign.training import distributed


class Steps:
    """Writes the step into the status, evaluates after some steps, and stops when asked to.

    Args:
        folder: of the run; its status gets the step.
        config: ``evaluation.steps`` are the steps after which all ranks call ``evaluate(policy, step)``.
        evaluate: see ``config``.
        should_stop: whether this process was asked to stop; all ranks then save a checkpoint and stop.
        policy: the policy in training.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        evaluate: Callable[[PreTrainedModel, int], None],
        should_stop: Callable[[], bool],
        policy: PreTrainedModel,
    ) -> None:
        self.folder, self.evaluate, self.should_stop, self.policy = folder, evaluate, should_stop, policy
        self.at, self.last = config.evaluation.steps, config.trainer.steps
        self.pace: Pace | None = None

    def __call__(self, step: int) -> bool:
        """Do what is due after ``step``. Returns whether all ranks are to stop."""
        if distributed.rank() == 0:
            self.folder.set_status(step=step)
            self.pace = self.pace or Pace("train", self.last, "steps", done=step)
            self.pace.update(step)
        if step in self.at and step < self.last:
            self.evaluate(self.policy, step)
            self.policy.train()
        return distributed.anywhere(self.should_stop()) and step < self.last
