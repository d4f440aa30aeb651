"""What an audit asks the training command for."""

from __future__ import annotations

import pytest

from robustalign.cli import audit


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would be run."""
    commands: list[list[str]] = []

    def call(command: list[str]) -> int:
        commands.append(command[1:])
        return 0

    monkeypatch.setattr(audit.subprocess, "call", call)
    return commands


def test_it_is_a_run_with_a_policy_and_then_a_report(called) -> None:
    assert audit.main(["models/my dpo/", "models/sft", "shift=groups", "paths.output=there"]) == 0
    train, report = called
    assert train[:2] == ["-m", "robustalign.cli.train"]
    assert {"method=audit", "method.policy='models/my dpo/'", "label='my dpo'", "model.path='models/sft'"} <= set(train)
    assert train[-2:] == ["shift=groups", "paths.output=there"] and "model=pretrained" in train
    assert report == ["-m", "robustalign.cli.report", "experiment=audit", "paths.output=there"]


def test_keys_of_the_command_line_win_and_journals_alone_make_no_report(called) -> None:
    words = ["run:abc", "asset:chitchat_tiny", "model=chitchat_tiny", "tracking=spool", "tracking.experiment=mine"]
    assert audit.main([*words, "--label", "ours"]) == 0
    (train,) = called
    assert "model=pretrained" not in train and "label='ours'" in train
    assert train.index("tracking.experiment=audit") < train.index("tracking.experiment=mine")


def test_a_failed_audit_is_not_reported(called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.subprocess, "call", lambda command: called.append(command) or 1)
    assert audit.main(["a", "b"]) == 1 and len(called) == 1


def test_what_is_no_key_is_refused(called, capsys) -> None:
    with pytest.raises(SystemExit):
        audit.main(["a", "b", "nonsense"])
    assert "nonsense: is no KEY=VALUE" in capsys.readouterr().err and not called
