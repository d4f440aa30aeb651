"""The program of a run (``robustalign.run.program``): candidates, pairs, training and evaluation."""

from robustalign.pipeline.checks import check_config
from robustalign.pipeline.estimate import outlook
from robustalign.pipeline.inputs import inputs
from robustalign.pipeline.run import run, warm
from robustalign.pipeline.stages import shared_key

__all__ = ["check_config", "inputs", "outlook", "run", "shared_key", "warm"]
