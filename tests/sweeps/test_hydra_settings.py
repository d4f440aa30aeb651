"""Hydra's own settings are honoured or refused by name, never accepted and ignored."""

from __future__ import annotations

import pytest

from tests.cli.test_train import type_in

__all__ = ["type_in"]

REFUSED = {
    "hydra.run.dir=elsewhere": "hydra.run.dir",
    "hydra.sweep.dir=elsewhere": "hydra.sweep.dir",
    "hydra.sweep.subdir=one": "hydra.sweep.subdir",
    "hydra.output_subdir=.hydra": "hydra.output_subdir",
    "hydra.job.chdir=true": "hydra.job.chdir",
    "hydra.job.name=mine": "hydra.job.name",
    "hydra.job.env_copy=[HOME]": "hydra.job.env_copy",
    "hydra.sweeper.max_batch_size=2": "hydra.sweeper.max_batch_size",
    "hydra.verbose=true": "hydra.verbose",
    "hydra/launcher=basic": "hydra/launcher",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_setting_that_would_change_nothing_is_refused_by_name(type_in, word):
    code, message = type_in(word)
    assert code == 2
    assert message.startswith(f"robustalign: error: {REFUSED[word]}: ")
    assert len(message.splitlines()) == 1


def test_job_chdir_false_is_what_happens_anyway(type_in):
    code, message = type_in("hydra.job.chdir=false", "sweep.dry_run=true", "method.radius=-1")
    assert "chdir" not in message and code == 2


def test_env_set_is_the_environment_of_every_run_and_of_a_retry(shell):
    words = ("-m", "seed=0,1", "+hydra.job.env_set.MY_SETTING='on and on'", "+method.show=MY_SETTING")
    assert shell.train(*words, "+method.raise_at=2", "trainer.max_steps=3").returncode == 1
    assert [folder.log.read_text().count("MY_SETTING=on and on") for folder in shell.folders()] == [1, 1]
    assert shell.act("retry") == 1
    assert [folder.log.read_text().count("MY_SETTING=on and on") for folder in shell.folders()] == [2, 2]


def test_callbacks_are_told_of_the_sweep_and_of_each_run(shell):
    diary = shell.folder / "diary"
    callback = f"{{_target_: tests.sweeps.callback.Diary, file: '{diary}'}}"
    done = shell.train("-m", "seed=0,1", f"+hydra.callbacks.diary={callback}", "trainer.max_steps=3")
    assert done.returncode == 0, done.stderr
    lines = diary.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("sweep starts", "sweep ends True")
    assert sorted(lines[1:-1]) == ["0 COMPLETED True", "0 starts", "1 COMPLETED True", "1 starts"]
    assert lines.index("0 starts") < lines.index("0 COMPLETED True")
