"""A wheel built from the tree carries configs and the shipped model, and works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    run = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = folder.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    subprocess.run(pip, check=True)
    return folder / "site"


def python(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_configs_assets_and_plugin_are_inside(installed: Path) -> None:
    assert (installed / "robustalign" / "conf" / "method" / "kldpo.yaml").is_file()
    assert (installed / "robustalign" / "assets" / "chitchat_tiny" / "model.safetensors").is_file()
    assert (installed / "hydra_plugins" / "robustalign_launcher" / "__init__.py").is_file()
    assert not (installed / "conf").exists() and not (installed / "hydra_plugins" / "__init__.py").exists()


def test_the_command_line_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = python(installed, tmp_path, "-c", "import robustalign; print(robustalign.__file__)")
    assert str(installed) in where.stdout
    job = python(installed, tmp_path, "-m", "robustalign.cli.train", "method=kldpo", "--cfg", "job")
    assert job.returncode == 0, job.stderr
    assert "temperature: 0.5" in job.stdout and "asset:chitchat_tiny" in job.stdout
    assert list(tmp_path.iterdir()) == []
