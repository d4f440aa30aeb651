"""Hydra's own settings (``hydra.*``): variables of runs and callbacks work, and settings without effect are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from robustalign.errors import ConfigError
from robustalign.run.folder import State, Status
from robustalign.sweeps.sweep import Run

PLACES = "paths.output says where results go"
MEANINGLESS: dict[str, tuple[tuple[Any, ...], str]] = {  # values that change nothing, and what to do instead
    "run.dir": ((".",), PLACES),
    "sweep.dir": (("${paths.output}/sweeps",), PLACES),
    "sweep.subdir": ((".",), PLACES),
    "output_subdir": ((None,), "each run's folder holds its config.yaml"),
    "job.chdir": ((None, False), f"runs work in the folder where the command was typed; {PLACES}"),
    "job.env_copy": (([],), "runs see the whole environment of this command; hydra.job.env_set adds to it"),
    "job.config.override_dirname.exclude_keys": (([],), "runs' folders are named by what they compute"),
    "sweeper.max_batch_size": ((None,), "hydra.launcher says how many runs go on at once"),
    "verbose": ((False,), "each run's log.txt holds all that it says"),
}


def check_settings(config: DictConfig) -> None:
    """Refuse settings that have an effect under Hydra's own launchers and none under ours.

    Raises:
        ConfigError: the key as the user wrote it, and the key to use instead.
    """
    settings = OmegaConf.to_container(config.hydra, resolve=False)
    for key, (defaults, instead) in MEANINGLESS.items():
        value: Any = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and value not in defaults:
            raise ConfigError(f"hydra.{key}", f"{value!r} would change nothing: {instead}")
    for override in config.hydra.overrides.hydra:
        if override.lstrip("+").startswith("hydra.job.name="):
            raise ConfigError("hydra.job.name", "would change nothing: what varies names runs, and label their point")


def environment(config: DictConfig) -> dict[str, str]:
    """The variables that ``hydra.job.env_set`` adds to the environment of every run."""
    return {str(name): str(value) for name, value in config.hydra.job.env_set.items()}


class JobEvents:
    """Tells Hydra's callbacks, in the launching process, when a run starts and when it ends.

    Args:
        callbacks: those that Hydra has told of the sweep's start.
        hydra: the config that Hydra composed for the sweep.
    """

    def __init__(self, callbacks: Callbacks, hydra: DictConfig) -> None:
        self.callbacks, self.hydra = callbacks, hydra
        self.started: set[str] = set()

    def __call__(self, run: Run, status: Status) -> None:
        """Call the callbacks for a run that has started or ended; a restart is not reported again."""
        if not self.callbacks.callbacks or not (status.state is State.RUNNING or status.state.ended):
            return
        name, config = run.folder.name, self._config(run)
        if name not in self.started:
            self.started.add(name)
            self.callbacks.on_job_start(config=config, task_function=_of_its_own)
        if status.state.ended:
            finished = status.state is State.FINISHED
            job = JobReturn(cfg=config, hydra_cfg=self.hydra, working_dir=str(run.folder.path), task_name=run.name)
            job.status = JobStatus.COMPLETED if finished else JobStatus.FAILED
            job.return_value = None if finished else RuntimeError(status.error or status.state.value)
            self.callbacks.on_job_end(config=config, job_return=job)

    def end(self, single: bool, name: str | None) -> None:
        """Call the callbacks for the end of the command, as Hydra does so only when its launcher returns."""
        if single:
            self.callbacks.on_run_end(config=self.hydra, config_name=name)
        self.callbacks.on_multirun_end(config=self.hydra, config_name=name)

    def _config(self, run: Run) -> DictConfig:
        config = OmegaConf.create(run.folder.frozen())
        assert isinstance(config, DictConfig)
        with open_dict(config):
            config.hydra = self.hydra.hydra
        return config


def _of_its_own(config: DictConfig) -> None:
    """The task function that callbacks get; it never runs, as runs are processes (``robustalign.run.worker``)."""
