"""Backends are interchangeable, and a SLURM job that dies before its run is counted (SLURM is scripts here)."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import robustalign
from robustalign.errors import ConfigError
from robustalign.run.folder import RunFolder, State
from robustalign.sweeps import backends
from robustalign.sweeps.backends import slurm_commands
from robustalign.sweeps.backends.slurm import SlurmArray
from robustalign.sweeps.backends.slurm_fate import out_of_restarts, set_current_run, settle
from robustalign.sweeps.sweep import Run, Sweep


@pytest.fixture
def sweep(make, tmp_path) -> Sweep:
    """Three pending runs in the jobs 7_0, 7_1, 7_1."""
    runs = []
    for seed, job in enumerate(("7_0", "7_1", "7_1")):
        folder = RunFolder(tmp_path / "runs" / f"r{seed}")
        folder.freeze(make(f"seed={seed}"))
        folder.set_job(job, folder.status())
        runs.append(Run(folder, folder.name))
    made = Sweep(output=tmp_path, runs=runs, varying=[], tracking=make().tracking, max_restarts=1)
    (made.folder / "slurm").mkdir(parents=True)
    return made


def commands(folder: Path, monkeypatch, **scripts: str) -> None:
    """Shell scripts in place of SLURM's commands."""
    for name, body in scripts.items():
        file = folder / name
        file.write_text(f"#!/bin/sh\n{body}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_each_job_that_dies_before_its_run_counts_once_and_too_many_fail_it(sweep):
    run, states = sweep.runs[0], {"7_0": "FAILED", "8_0": "FAILED"}
    (sweep.folder / "slurm" / "7_0_0_log.out").write_text("srun: hello\nno such module: torch/9\n\n")
    assert settle(sweep, run, states)
    assert settle(sweep, run, states)  # a second look at the same job
    status = run.folder.status()
    assert (status.state, status.kills, status.attempts) == (State.KILLED, 1, 0)
    assert "no such module: torch/9" in status.error
    run.folder.set_job("8_0", status)
    (sweep.folder / "slurm" / "8_0_0_log.out").write_text("no such module: torch/9\n")
    assert not settle(sweep, run, states)
    status = run.folder.status()
    assert (status.state, status.kills) == (State.FAILED, 2)
    assert status.error.endswith("the last one said: no such module: torch/9")
    assert not out_of_restarts(sweep, run)


def test_a_run_that_was_preempted_before_is_counted_too(sweep):
    run = sweep.runs[0]
    run.folder.set_status(State.PREEMPTED, attempts=1)
    assert settle(sweep, run, {"7_0": "FAILED"})
    assert run.folder.status().kills == 0  # it stopped well in that job
    run.folder.set_job("8_0", run.folder.status())
    assert settle(sweep, run, {"8_0": "FAILED"})
    assert (run.folder.status().state, run.folder.status().kills) == (State.KILLED, 1)


def test_runs_that_wait_behind_another_of_their_job_are_not_blamed(sweep):
    _, first, second = sweep.runs
    set_current_run(sweep.folder / "slurm", "7_1", first.folder.name)
    first.folder.set_status(State.RUNNING, attempts=1)
    assert settle(sweep, first, {"7_1": "NODE_FAIL"})
    assert settle(sweep, second, {"7_1": "NODE_FAIL"})
    assert (first.folder.status().state, first.folder.status().kills) == (State.KILLED, 1)
    assert (second.folder.status().state, second.folder.status().kills) == (State.PENDING, 0)


def test_a_run_that_was_never_submitted_has_no_dead_job(sweep):
    run = sweep.runs[0]
    run.folder.reopen()
    assert run.folder.job() is None
    assert settle(sweep, run, {})
    assert (run.folder.status().state, run.folder.status().kills) == (State.PENDING, 0)


def test_jobs_know_nothing_of_the_job_that_submits_them(monkeypatch):
    names = ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID", "SLURM_NTASKS")
    for name in (*names, "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "1")
    before = dict(os.environ)
    with slurm_commands.outside_of_jobs():
        assert not set(names) & set(os.environ)
        assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= set(os.environ)
    assert dict(os.environ) == before


def test_a_step_gets_what_the_setup_exports():
    assert "--export=ALL" in SlurmArray()._parameters()["srun_args"]


def test_the_variables_of_a_sweep_are_exported_before_the_users_own_lines(sweep):
    sweep.environment = {"MY_SETTING": "on & on"}
    backend = SlurmArray(setup=["module load cuda"])
    assert backend._setup(sweep) == {"setup": ["export MY_SETTING='on & on'", "module load cuda"]}


@pytest.mark.parametrize("name", ["a%b", "a\\b"])
def test_a_folder_that_slurm_would_read_as_a_pattern_is_refused(make, tmp_path, name):
    with pytest.raises(ConfigError, match=r"paths\.output"):
        SlurmArray().check([make(f"paths.output='{tmp_path / name}'")])


def test_an_array_that_is_too_long_names_the_cure_before_anything_is_submitted(sweep, tmp_path, monkeypatch):
    submit = f"echo $@ >> {tmp_path}/submitted; exit 1"
    commands(tmp_path, monkeypatch, scontrol="echo 'MaxArraySize            = 2'", sbatch=submit)
    with pytest.raises(ConfigError, match=r"3 runs make 3 jobs.*hydra\.launcher\.runs_per_job=2 fits"):
        SlurmArray()._submit(sweep, sweep.runs, sweep.runs[:1])
    assert not (tmp_path / "submitted").exists()


def test_no_job_stays_behind_where_the_array_is_refused(sweep, tmp_path, monkeypatch):
    refusal = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    sbatch = f'if grep -q array "$1"; then echo "{refusal}" >&2; exit 1; fi; echo Submitted batch job 41'
    scancel = f"echo $@ >> {tmp_path}/cancelled"
    commands(tmp_path, monkeypatch, scontrol="exit 1", sbatch=sbatch, scancel=scancel, srun="", sacct="")
    with pytest.raises(ConfigError, match=r"QOSMaxSubmit.*raise hydra\.launcher\.runs_per_job"):
        SlurmArray()._submit(sweep, sweep.runs, sweep.runs[:1])
    assert (tmp_path / "cancelled").read_text() == "41\n"


def test_a_backend_is_one_file_and_one_yaml(shell):
    folder = shell.folder / "conf" / "hydra" / "launcher"
    folder.mkdir(parents=True)
    target = "hydra_plugins.robustalign_launcher.SweepLauncher"
    (folder / "serial.yaml").write_text(f"_target_: {target}\nbackend: tests.sweeps.one_at_a_time\nwait: true\n")
    words = ("-m", "hydra/launcher=serial", "tracking=spool", "seed=0,1", "trainer.max_steps=3")
    done = shell.run("train.py", "--config-dir", str(folder.parents[1]), *words)
    assert done.returncode == 0, done.stderr
    assert set(shell.states().values()) == {State.FINISHED}
    assert shell.act("wait") == 0
    assert shell.act("cancel") == 0


def test_nothing_above_the_backends_knows_one():
    package = Path(robustalign.__file__).parent
    above = [*(package / "sweeps").glob("*.py"), *(package / "cli").glob("*.py")]
    assert len(above) > 10
    for path in above:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(backends.__name__):
                assert node.module in (backends.__name__, f"{backends.__name__}.base"), f"{path.name}: {node.module}"
            if isinstance(node, ast.ImportFrom) and node.module == backends.__name__:
                assert {alias.name for alias in node.names} <= {"base", "load"}, path.name


def test_an_unknown_backend_is_named():
    with pytest.raises(ConfigError, match=r"hydra\.launcher\.backend"):
        backends.load("nowhere")
