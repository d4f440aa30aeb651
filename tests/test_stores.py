"""An address leads to its file whatever the file's name, and its password is shown nowhere."""

from __future__ import annotations

import os

import pytest
from sqlalchemy.engine import make_url

from robustalign.errors import ConfigError
from robustalign.stores import hide, keep_password, sqlite_file, sqlite_uri, with_password
from robustalign.sweeps.mlflow_sync import ImportThread
from robustalign.sweeps.sweep import Sweep
from robustalign.tracking import store as tracking_store
from tests.sweeps.conftest import base, make, shell

__all__ = ["base", "make", "shell"]

SECRET = "s3cret-w0rd"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Without the variables that these functions set, and again without them afterwards."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["plain", "a?b", "a%20b", "a%3Fb", "a b", "a#b", "50%", "ü@:;&=", "a%%b??"])
def test_sqlalchemy_opens_the_file_that_was_meant(tmp_path, name):
    file = tmp_path / name / "mlflow.db"
    assert make_url(sqlite_uri(file)).database == str(file)
    assert sqlite_file(sqlite_uri(file)) == file
    assert sqlite_file(sqlite_uri(file) + "?timeout=5") == file


def test_the_store_of_a_folder_with_a_question_mark_lies_in_it(tmp_path):
    file = tmp_path / "a?b%20c" / "mlflow.db"
    tracking_store.open_store(sqlite_uri(file))
    assert file.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["a?b%20c"]


def test_a_servers_password_goes_where_mlflow_looks():
    assert keep_password(f"https://me:{SECRET}%2F@host:5000/x") == "https://host:5000/x"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", f"{SECRET}/")
    assert keep_password("https://host:5000/x") == "https://host:5000/x"


@pytest.mark.parametrize("password", ["with/slash", "with#hash", "with?mark"])
def test_a_password_that_breaks_the_address_is_refused_and_not_shown(password):
    with pytest.raises(ConfigError) as error:
        keep_password(f"http://me:{password}@host")
    assert "with" not in str(error.value).replace("password", "")


def test_a_databases_password_stays_in_this_process(monkeypatch):
    uri = f"postgresql+psycopg2://me:{SECRET}@host/db"
    shown = keep_password(uri)
    assert shown == "postgresql+psycopg2://me:***@host/db"
    assert keep_password(shown) == shown
    assert with_password(shown) == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="export MLFLOW_TRACKING_URI"):
        with_password(shown)


def test_mlflow_is_given_the_password_and_an_error_does_not_show_it(monkeypatch):
    given = []

    class Client:
        def __init__(self, uri):
            given.append(uri)

        def search_experiments(self, max_results):
            raise OSError(f"no answer from {given[-1]}")

    monkeypatch.setattr("mlflow.tracking.MlflowClient", Client)
    uri = f"mysql://me:{SECRET}@host/db"
    with pytest.raises(ConfigError) as error:
        tracking_store.open_store(keep_password(uri))
    assert given == [uri]
    assert SECRET not in str(error.value) and "me:***@host" in str(error.value)


def test_texts_are_shown_without_passwords():
    assert hide(f"tracking.uri=http://me:{SECRET}@host:80/x y") == "tracking.uri=http://me:***@host:80/x y"
    assert hide("nothing http://host:80/x to hide") == "nothing http://host:80/x to hide"
    keep_password(f"http://me:{SECRET}@host")
    assert hide(f"401 for {SECRET}") == "401 for ***"


def test_a_sweep_that_was_saved_with_a_password_shows_it_no_more(make, tmp_path, capsys):
    sweep = Sweep(tmp_path, [], [], make().tracking, command=f"train.py tracking.uri=http://me:{SECRET}@127.0.0.1:9")
    sweep.tracking.uri = f"http://me:{SECRET}@127.0.0.1:9"
    sweep.save()
    again = Sweep.load(sweep.folder)
    assert SECRET not in again.command and again.mlruns == "http://127.0.0.1:9"
    assert ImportThread(again).finish() is None
    assert SECRET not in "".join(capsys.readouterr())


def test_a_command_with_a_password_leaves_it_nowhere(shell):
    uri = f"tracking.uri='http://me:{SECRET}@127.0.0.1:9'"
    once = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    done = shell.run("train.py", uri, "trainer.max_steps=2", **once)
    assert done.returncode == 0, done.stderr
    assert "127.0.0.1:9" in done.stderr and SECRET not in done.stdout + done.stderr
    files = [path for path in shell.output.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    for word in (f"tracking.uri=[http://me:{SECRET}@host", f"tracking.uri=ftp://me:{SECRET}@host"):
        wrong = shell.run("train.py", word)
        assert wrong.returncode == 2 and SECRET not in wrong.stderr and "me:***@host" in wrong.stderr
