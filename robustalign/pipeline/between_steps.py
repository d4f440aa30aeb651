"""What a run does between optimiser steps."""

from __future__ import annotations

from collections.abc import Callable, Collection

from transformers import PreTrainedModel, TrainerCallback

from robustalign.progress import Pace
from robustalign.run.folder import RunFolder
from robustalign.training import distributed


class Steps(TrainerCallback):
    """Tells the step, evaluates at some steps, and stops when asked to.

    Args:
        folder: whose status tells the step.
        at: the steps after which ``evaluate(policy, step)`` is called, by all ranks.
        evaluate: see ``at``.
        should_stop: whether this process was asked to stop; all ranks then save a checkpoint and stop.
        policy: that is trained.
    """

    def __init__(
        self,
        folder: RunFolder,
        at: Collection[int],
        evaluate: Callable[[PreTrainedModel, int], None],
        should_stop: Callable[[], bool],
        policy: PreTrainedModel,
    ) -> None:
        self.folder, self.at, self.evaluate, self.should_stop, self.policy = folder, at, evaluate, should_stop, policy

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.pace = Pace("train", state.max_steps, "steps", done=state.global_step)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        step = state.global_step
        if distributed.rank() == 0:
            self.folder.set_status(step=step)
            self.pace.update(step)
        if step in self.at and step < state.max_steps:
            self.evaluate(self.policy, step)
            self.policy.train()
        if distributed.anywhere(self.should_stop()) and step < state.max_steps:
            control.should_save = control.should_training_stop = True
