"""A sweep as one SLURM job array, submitted through submitit."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from robustalign.bounds import number
from robustalign.checks import check_ranks
from robustalign.config import Config
from robustalign.errors import ConfigError
from robustalign.locks import Lock
from robustalign.sweeps.backends import slurm_commands
from robustalign.sweeps.backends.base import Outcome
from robustalign.sweeps.backends.slurm_fate import is_active, out_of_restarts, settle
from robustalign.sweeps.display import Progress
from robustalign.sweeps.fork_client import NurseryClient
from robustalign.sweeps.sweep import Run, Sweep

LIMITS = ("QOS", "job submit limit", "AssocMaxSubmit", "array", "unable to accept job")  # of sbatch's refusals


@dataclass
class SlurmArray:
    """The keys of ``hydra/launcher=slurm``; ``conf/hydra/launcher/slurm.yaml`` documents them."""

    partition: str | int | None = None
    account: str | int | None = None
    qos: str | int | None = None
    constraint: str | int | None = None
    exclude: str | int | None = None
    time: int | str = 60
    nodes: int = number(1, "[1, inf)")
    cpus: int = number(1, "[1, inf)")
    gpus: int = number(0, "[0, inf)")
    mem: str | int | None = None
    setup: list[str] = field(default_factory=list)
    sbatch: dict[str, Any] = field(default_factory=dict)
    max_parallel: int = number(16, "[1, inf)")
    runs_per_job: int = number(1, "[1, inf)")
    signal_seconds: int = number(90, "[1, inf)")
    name: str = "robustalign"
    wait: bool = True
    poll_seconds: float = number(5.0, "(0, inf)")

    def __post_init__(self) -> None:
        minutes(self.time)

    def memory(self) -> dict[str, Any]:
        """Its keys."""
        return {"kind": "slurm", "options": asdict(self)}

    def check(self, configs: Sequence[Config]) -> None:
        """Every job has as many ranks as the keys say, and SLURM takes the logs' folder by its word."""
        for config in configs:
            if {"%", "\\"} & set(config.paths.output):
                problem = f"SLURM reads % and \\ in {config.paths.output} as patterns; choose a folder without them"
                raise ConfigError("paths.output", problem)
            check_ranks(config.trainer, self.nodes * (self.gpus or config.trainer.nproc))

    def describe(self, configs: Sequence[Config]) -> str:
        """The head of the batch script."""
        from submitit.slurm.slurm import _make_sbatch_string

        jobs = -(-len(configs) // self.runs_per_job)
        script = _make_sbatch_string("COMMAND", "FOLDER", map_count=jobs, **self._parameters())
        head = [line for line in script.splitlines() if line.startswith("#SBATCH")]
        return "\n".join([f"slurm: an array of {jobs} jobs, {self.max_parallel} at once", *head, *self.setup])

    def look(self, sweep: Sweep) -> None:
        """Update the status of runs whose jobs have ended."""
        states = self._states(sweep.runs)
        for run in sweep.runs:
            settle(sweep, run, states)

    def cancel(self, sweep: Sweep, runs: Sequence[Run]) -> None:
        """Cancel the pending jobs that have only these runs."""
        states = slurm_commands.states(_jobs(runs)) or {}
        other_jobs = _jobs([run for run in sweep.runs if run not in runs])
        slurm_commands.cancel(
            sorted(job for job, state in states.items() if state == "PENDING" and job not in other_jobs)
        )

    def run(self, sweep: Sweep, todo: Sequence[Run], warm: Sequence[Run], client: NurseryClient) -> Outcome:
        """Submit what is not queued yet, and wait for all unless ``wait`` is off."""
        with Lock(sweep.folder / "submit.lock"):
            states = self._states(todo)
            going = [run for run in todo if not run.folder.status().state.ended]  # a cancelled job may have ended since
            new = [run for run in going if not is_active(run, states)]
            if new:
                self._submit(sweep, new, warm)
        if not self.wait:
            return Outcome.LEFT
        try:
            self._wait(sweep, todo)
        except KeyboardInterrupt:
            text = "the jobs go on; robustalign sweep wait (or cancel)"
            print(f"\nrobustalign: no longer waiting, {text} {sweep.id}", file=sys.stderr)
            return Outcome.STOPPED
        return Outcome.DONE

    def _wait(self, sweep: Sweep, runs: Sequence[Run]) -> None:
        """Wait until every run has ended; a run without a job that can go on gets a new job."""
        with Progress(sweep) as progress:
            while True:
                with Lock(sweep.folder / "submit.lock"):
                    going = [run for run in runs if not run.folder.status().state.ended]
                    states = slurm_commands.states(_jobs(going))
                    again = [run for run in going if states is not None and settle(sweep, run, states)]
                    again = [run for run in again if not out_of_restarts(sweep, run)]
                    if again:
                        self._submit(sweep, again, [])
                progress.update()
                if all(run.folder.status().state.ended or out_of_restarts(sweep, run) for run in going):
                    return
                time.sleep(self.poll_seconds)

    def _states(self, runs: Sequence[Run]) -> Mapping[str, str]:
        states = slurm_commands.states(_jobs(runs))
        if states is None:
            raise ConfigError("hydra/launcher", "SLURM does not answer (squeue failed); is this a submit host?")
        return states

    def _submit(self, sweep: Sweep, runs: Sequence[Run], warm: Sequence[Run]) -> None:
        """Submit one array for all runs, behind one job that builds what they share. If SLURM refuses one, none stays
        queued.
        """
        from robustalign.sweeps.backends.slurm_job import run_chunk, warm_chunk

        folder = sweep.folder / "slurm"
        chunks = [runs[start : start + self.runs_per_job] for start in range(0, len(runs), self.runs_per_job)]
        self._check_array(len(runs), len(chunks))
        before = {run.folder.name: run.folder.status() for run in runs}
        after: dict[str, Any] = {}
        first: list[str] = []
        if warm:
            chosen = [[[str(run.folder.path) for run in warm]]]
            first = self._array(folder, warm_chunk, chosen, self._setup(sweep) | {"nodes": 1})
            after = {"dependency": f"afterany:{first[0]}"}
        paths = [[str(run.folder.path) for run in chunk] for chunk in chunks]
        arguments: list[list[Any]] = [paths, [sweep.max_restarts] * len(chunks), [self.gpus] * len(chunks)]
        try:
            jobs = self._array(folder, run_chunk, arguments, self._setup(sweep) | after)
        except BaseException:
            slurm_commands.cancel(first)
            raise
        for job, chunk in zip(jobs, chunks, strict=True):
            for run in chunk:
                run.folder.set_job(job, before[run.folder.name])
        print(
            f"robustalign: {len(runs)} runs in {len(jobs)} jobs ({jobs[0]} ...), logs of jobs: {folder}",
            file=sys.stderr,
        )

    def _setup(self, sweep: Sweep) -> dict[str, Any]:
        """The lines before the run, with the variables that the sweep gives every run."""
        exports = [f"export {name}={shlex.quote(value)}" for name, value in sweep.environment.items()]
        return {"setup": [*exports, *self.setup]} if exports else {}

    def _check_array(self, runs: int, jobs: int) -> None:
        limit = slurm_commands.array_limit()
        if limit is not None and jobs > limit:
            cure = f"an array holds {limit} here (MaxArraySize); hydra.launcher.runs_per_job={-(-runs // limit)} fits"
            raise ConfigError("hydra.launcher.runs_per_job", f"{runs} runs make {jobs} jobs, but {cure}")

    def _array(
        self, folder: Path, function: Callable[..., None], arguments: list[list[Any]], more: Mapping[str, Any]
    ) -> list[str]:
        import submitit
        from submitit.core.utils import FailedJobError

        try:
            executor = submitit.SlurmExecutor(folder=folder, python=sys.executable)
            executor.update_parameters(**{**self._parameters(), **more})
            # the error repeats sbatch's message
            with slurm_commands.outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()):
                jobs = executor.map_array(function, *arguments)
        except (FailedJobError, RuntimeError, OSError) as error:
            words = "; ".join(str(error).strip().splitlines()) or type(error).__name__
            limited = any(sign in words for sign in LIMITS)
            cure = "; raise hydra.launcher.runs_per_job: fewer jobs of more runs each" if limited else ""
            raise ConfigError("hydra.launcher", f"SLURM takes no job: {words}{cure}") from error
        return [job.job_id for job in jobs]

    def _parameters(self) -> dict[str, Any]:
        parameters = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "mem": self.mem,
            "gpus_per_node": self.gpus or None,
            "setup": [*self.setup] or None,
            "additional_parameters": {"requeue": True, **self.sbatch},
        }
        return {key: value for key, value in parameters.items() if value is not None} | {
            "job_name": self.name,
            "time": minutes(self.time),
            "nodes": self.nodes,
            "ntasks_per_node": 1,
            "cpus_per_task": self.cpus,
            "array_parallelism": self.max_parallel,
            "signal_delay_s": self.signal_seconds,
            "stderr_to_stdout": True,
            # the job ends when a node fails; steps get the variables that setup made, whatever SBATCH_EXPORT says
            "srun_args": ["--kill-on-bad-exit=1", "--export=ALL"],
        }


def _jobs(runs: Sequence[Run]) -> set[str]:
    return {job.job for run in runs if (job := run.folder.job())}


def minutes(text: int | str) -> int:
    """SLURM's ways to write a time limit: minutes, H:MM:SS, D-HH:MM:SS."""
    days, _, clock = str(text).rpartition("-")
    parts = clock.split(":")
    try:
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", str(text)) or not re.search("[1-9]", str(text)):
            raise ValueError
        numbers = [int(part) for part in parts]
        if len(numbers) == 1 and not days:
            return max(1, numbers[0])
        hours, mins, seconds = [*numbers, 0, 0][:3] if days or len(numbers) == 3 else (0, *numbers)
        return int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0)
    except ValueError:
        problem = f"{text!r} is no time limit; write minutes, HH:MM:SS or DAYS-HH:MM:SS"
        raise ConfigError("hydra.launcher.time", problem) from None


BACKEND = SlurmArray
