"""How runs are started: Hydra's launchers, as ``hydra/launcher=...`` names them.

Hydra imports this at every start, so nothing heavy is imported here.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from robustalign.bounds import problems
from robustalign.errors import ConfigError, choices
from robustalign.sweeps import backends
from robustalign.sweeps.scales import scaled

if TYPE_CHECKING:
    from robustalign.sweeps.backends.base import Backend
    from robustalign.sweeps.fork_client import NurseryClient


OPEN = ("fields", "splits", "columns", "join", "where", "thread", "turns", "path")
# mappings whose keys are the user's
WHOLE = ("shift.targets", "hydra.launcher.sbatch", *(f"dataset.{name}" for name in OPEN))


MANY = 100  # jobs whose composing shows a bar


class ProductSweeper(Sweeper):
    """The product of all swept values, like Hydra's own, without its files and without composing twice."""

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        self.loader = hydra_context.config_loader
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Launch the product of the swept values; the command line wins over the config's ``params``."""
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words = [*replaced(f"{key}={value}" for key, value in self.params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides(words)
        (jobs,) = BasicSweeper.split_arguments(overrides, None)
        if not isinstance(self.launcher, SweepLauncher):
            raise ConfigError("hydra/launcher", "Hydra's own launchers start no runs here; choose local or slurm")
        return self.launcher.launch(jobs, initial_job_idx=0)


def replaced(words: Iterable[str]) -> list[str]:
    """Override words in which ``shift.targets={...}`` replaces all targets, ``dataset.fields.prompt=...`` sets or adds
    one field, where Hydra alone would merge and refuse new names, and ``scale=...`` belongs to the experiment."""
    overrides: list[str] = []
    for word in scaled(words):
        key, _, value = word.partition("=")
        if key in WHOLE and value.startswith("{"):
            overrides += [f"{key}=null", f"+{word}"]
        else:
            overrides.append(f"++{word}" if key.startswith(tuple(f"{name}." for name in WHOLE[1:])) else word)
    return overrides


class SweepLauncher(Launcher):
    """Turns the jobs of a Hydra multirun into configs and has a backend run them.

    Args:
        backend: a module of ``robustalign.sweeps.backends``, or ``package.module``.
        options: of the backend.
    """

    def __init__(self, backend: str, **options: Any) -> None:
        self.kind = backend
        self.options = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in options.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what is needed to compose a job's config."""
        self.loader, self.callbacks = hydra_context.config_loader, hydra_context.callbacks
        self.config = config
        self.single = getattr(task_function, "single", False)
        self.nursery: NurseryClient | None = getattr(task_function, "nursery", None)  # started with the command

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run every job; exits with the sweep's exit code."""
        from hydra._internal.config_loader_impl import ConfigLoaderImpl
        from tqdm import tqdm

        from robustalign.checks import resolve
        from robustalign.sweeps.compose import Composer
        from robustalign.sweeps.execute import execute
        from robustalign.sweeps.fork_client import NurseryClient
        from robustalign.sweeps.hydra_settings import JobEvents, check_settings, environment

        check_settings(self.config)
        if len(job_overrides) > 1 and self.single:
            raise ConfigError("-m", f"these values make {len(job_overrides)} runs; add -m to run them all as a sweep")
        backend = _with_options(backends.load(self.kind), self.options)
        with contextlib.closing(self.nursery or NurseryClient()) as client:
            assert isinstance(self.loader, ConfigLoaderImpl)
            composer, few = Composer(self.loader, self.config), len(job_overrides) < MANY
            bar = tqdm(job_overrides, desc="composing configs", disable=few or None, leave=False)
            configs = [composer.config(words) for words in bar]
            base = resolve(self.loader.load_configuration("config", [], run_mode=RunMode.RUN))
            events = JobEvents(self.callbacks, self.config)
            code = execute(configs, base, backend, client, environment(self.config), events)
        events.end(self.single, self.config.hydra.job.config_name)
        sys.exit(code)


def _with_options(kind: Callable[..., Backend], options: Mapping[str, Any]) -> Backend:
    parameters = inspect.signature(kind).parameters
    for key in options:
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"hydra.launcher.{key}", f"unknown key; {hint}there are: {choices(parameters)}")
    backend = kind(**options)
    if is_dataclass(backend):
        for key, problem in problems(backend, "hydra.launcher."):
            raise ConfigError(key, problem)
    return backend
