"""Addresses of tracking stores: their files, and their passwords, which are never written or printed.

The password of a server (``http://me:secret@host``) goes where MLflow looks for it, into ``MLFLOW_TRACKING_USERNAME``
and ``MLFLOW_TRACKING_PASSWORD`` of this process; that of a database stays in ``MLFLOW_TRACKING_URI`` of this process,
and the address reads ``postgresql://me:***@host/db`` everywhere else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from robustalign.errors import ConfigError

SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI")  # variables that may hold one
HIDDEN = "***"
PASSWORD = re.compile(r"(://[^\s:/@]*):(.*)@")


def check_scheme(uri: str, key: str = "tracking.uri") -> None:
    """Refuse an address that MLflow does not know.

    Raises:
        ConfigError: with the kinds of addresses that there are.
    """
    if uri.partition("://")[0].partition("+")[0] not in SCHEMES:
        problem = f"unknown scheme in {hide(uri)!r}; use sqlite:///FILE.db, a database or an http(s) server"
        raise ConfigError(key, problem)


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite file, whatever its name: ``?`` and ``%20`` mean something else in an address."""
    return "sqlite:///" + re.sub(r"\?|%(?=[0-9A-Fa-f]{2})", lambda sign: quote(sign[0]), str(file))


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for other stores."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def keep_password(uri: str) -> str:
    """The address as it may be written and shown; its password goes into the environment of this process.

    Raises:
        ConfigError: nobody can tell where the password of a server ends.
    """
    if not uri.startswith(("http://", "https://")):
        if _masked(uri) != uri:
            os.environ["MLFLOW_TRACKING_URI"] = uri
        return _masked(uri)
    parts = urlsplit(uri)
    login, _, place = parts.netloc.rpartition("@")
    name, _, password = login.partition(":")
    if password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(name)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
        uri = parts._replace(netloc=place).geturl()
    if PASSWORD.search(uri):
        cure = "write / ? # @ in a password as %2F %3F %23 %40, or export MLFLOW_TRACKING_USERNAME and _PASSWORD"
        raise ConfigError("tracking.uri", f"where the password ends cannot be told; {cure}")
    return uri


def with_password(uri: str) -> str:
    """The address as MLflow has to be given it.

    Raises:
        ConfigError: its password was hidden, and this process does not have it.
    """
    if f":{HIDDEN}@" not in uri:
        return uri
    whole = os.environ.get("MLFLOW_TRACKING_URI", "")
    if _masked(whole) != uri:
        raise ConfigError("tracking.uri", f"the password of {uri} is in no file; export MLFLOW_TRACKING_URI with it")
    return whole


def hide(text: str) -> str:
    """A text without passwords of addresses, and without those that this process has been given."""
    secrets = {os.environ.get("MLFLOW_TRACKING_PASSWORD", ""), os.environ.get("MLFLOW_TRACKING_TOKEN", "")}
    for secret in secrets | {quote(secret, safe="") for secret in secrets}:
        if len(secret) > 3:  # shorter ones occur in ordinary words
            text = text.replace(secret, HIDDEN)
    return _masked(text)


def _masked(text: str) -> str:
    return PASSWORD.sub(rf"\1:{HIDDEN}@", text)
