"""A file is replaced at once, and an attempt that raises leaves the old one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import robustalign
from robustalign.files import replace_text, replacing


def test_a_block_that_raises_leaves_the_old_file_and_no_scratch(tmp_path):
    file = tmp_path / "status.json"
    replace_text(file, "old")
    with pytest.raises(RuntimeError), replacing(file) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    replace_text(file, "new")
    assert file.read_text() == "new"


def test_one_place_replaces_single_files():
    """Elsewhere ``os.replace`` renames whole folders alone."""
    package = Path(robustalign.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "replace" and getattr(node.value, "id", "") == "os"
    }
    assert users <= {"files.py", "training/checkpoints.py", "policies/save.py", "pipeline/export.py"}
