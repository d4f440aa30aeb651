"""Configs as the command line composes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from robustalign.checks import resolve
from robustalign.config import Config, config_dir, register


def composed(*overrides: str) -> Config:
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return resolve(compose("config", overrides=list(overrides)))


@pytest.fixture(scope="session")
def base() -> Config:
    return composed()


@pytest.fixture
def make(tmp_path: Path):
    """Compose a config whose files go to the test's folder."""
    places = (f"paths.output={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
    return lambda *overrides: composed(*places, *overrides)
