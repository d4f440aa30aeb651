"""A wheel built from the tree carries configs and the shipped model, and works outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
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


OUTSIDE = {
    "train": ("train", "--help"),
    "sweep": ("sweep", "status"),
    "report": ("report", "experiment=none"),
    "choose": ("choose", "experiment=none"),
    "sync": ("sync",),
    "export": ("export", "none"),
    "rates": ("rates", "seeds=1"),
    "atlas": ("atlas", "seeds=1"),
    "demo": ("demo", "trainer.max_steps=0"),
    "doctor": ("doctor",),
}


def test_every_command_works_outside_of_a_checkout(installed: Path, tmp_path: Path) -> None:
    """It runs, or refuses by the key that is wrong; help is there, and nothing is written."""
    listed = python(installed, tmp_path, "-m", "robustalign.cli.main", "--help").stdout
    names = re.findall(r"^  (\w+) {2,}\S", listed, flags=re.MULTILINE)
    assert set(names) >= {*OUTSIDE, "reward", "data", "audit"}
    for name in names:
        done = python(installed, tmp_path, "-m", "robustalign.cli.main", *OUTSIDE.get(name, (name, "--help")))
        told = done.stdout + done.stderr
        assert done.returncode in (0, 2) and "Traceback" not in told, told
        assert done.returncode == 0 or done.stderr.startswith("robustalign: error: "), told
        assert "scripts/" not in told and ".py " not in told, told
    assert list(tmp_path.iterdir()) == []


def test_the_entry_point_is_the_command(installed: Path, tmp_path: Path) -> None:
    (entry,) = [e for e in distributions(path=[str(installed)]) if e.metadata["Name"] == "robustalign"]
    scripts = {point.name: point.value for point in entry.entry_points}
    assert scripts["robustalign"] == "robustalign.cli.main:main"
    for value in scripts.values():
        module, _, function = value.partition(":")
        assert python(installed, tmp_path, "-c", f"from {module} import {function}").returncode == 0


def test_the_wheels_with_data_can_be_installed_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    told = python(installed, tmp_path, "-c", "from robustalign import wheels; print(wheels.requirements())").stdout
    assert Path(told.strip()) == installed / "robustalign" / "requirements-data.txt"
    assert "nade==" in Path(told.strip()).read_text()


def test_the_command_line_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = python(installed, tmp_path, "-c", "import robustalign; print(robustalign.__file__)")
    assert str(installed) in where.stdout
    job = python(installed, tmp_path, "-m", "robustalign.cli.train", "method=kldpo", "--cfg", "job")
    assert job.returncode == 0, job.stderr
    assert "temperature: 0.5" in job.stdout and "asset:chitchat_tiny" in job.stdout
    assert list(tmp_path.iterdir()) == []
