"""A fingerprint follows content: it changes with every byte that matters, and with nothing else."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from robustalign import fingerprints
from robustalign.fingerprints import of_code, of_file, of_files, of_options, of_value


def test_a_file_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("one")
    assert of_file(tmp_path / "a") == of_file(tmp_path / "b")
    (tmp_path / "a").write_text("two")
    assert of_file(tmp_path / "a") != of_file(tmp_path / "b")


def test_a_hash_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, memory = tmp_path / "weights", tmp_path / "memory"
    file.write_text("one")
    before = of_file(file, memory)
    monkeypatch.setattr(fingerprints, "_hashes", {})  # another process
    monkeypatch.setattr(fingerprints, "_read", lambda file: pytest.fail("it is read again"))
    assert of_file(file, memory) == before
    monkeypatch.undo()
    monkeypatch.setattr(fingerprints, "_hashes", {})
    os.utime(file, (1, 1))
    assert of_file(file, memory) == before  # the same content at another time
    facts = file.stat()
    file.write_text("two")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # of the same length, and said to be as old
    assert of_file(file, memory) != before
    (note,) = memory.iterdir()
    note.write_text("{broken")
    monkeypatch.setattr(fingerprints, "_hashes", {})
    assert of_file(file, memory) != before


def test_files_are_their_names_and_content_wherever_they_are(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1")
    here, there = (of_files((tmp_path / folder).iterdir()) for folder in ("here", "there"))
    assert here == there
    (tmp_path / "there" / "a").rename(tmp_path / "there" / "b")
    assert of_files((tmp_path / "there").iterdir()) != here
    assert of_value({"a": 1, "b": 2}) == of_value({"b": 2, "a": 1}) != of_value({"a": 1, "b": 3})


def test_options_that_name_files_are_these_files(tmp_path: Path) -> None:
    words, folder = tmp_path / "words.txt", tmp_path / "model"
    words.write_text("you")
    folder.mkdir()
    (folder / "weights").write_text("1")
    options = {"words": str(words), "model": str(folder), "rate": 0.5, "name": "joy"}
    before = of_options(options)
    assert set(before) == {"words", "model"}
    words.write_text("your")
    after = of_options(options)
    assert after["words"] != before["words"] and after["model"] == before["model"]
    (folder / "weights").write_text("2")
    assert of_options(options)["model"] != after["model"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``mine.scorers.tone`` imports ``mine.text`` and ``.shared``; ``mine.unused`` nobody does."""
    root = tmp_path / "mine"
    (root / "scorers").mkdir(parents=True)
    for init in (root, root / "scorers"):
        (init / "__init__.py").write_text("")
    (root / "scorers" / "tone.py").write_text(
        "from mine import text\n\n\ndef build():\n    from .shared import FACTOR\n"
    )
    (root / "scorers" / "shared.py").write_text("FACTOR = 1\n")
    (root / "text.py").write_text("import numpy, pytest\nimport helper_of_mine\n")
    (root / "unused.py").write_text("")
    (tmp_path / "helper_of_mine.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "helper_of_mine")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("file", "matters"),
    [("scorers/tone.py", True), ("scorers/shared.py", True), ("text.py", True), ("unused.py", False)],
)
def test_code_is_the_module_and_what_it_imports_of_its_package(package: Path, file: str, matters: bool) -> None:
    module = importlib.import_module("mine.scorers.tone")
    before = of_code(module)
    assert of_code(module) == before
    with open(package / file, "a") as stream:
        stream.write("# edited\n")
    assert (of_code(module) != before) is matters
    assert set(before["source"]) >= {"mine.scorers.tone", "mine.scorers.shared", "mine.text"}


def test_versions_of_what_code_imports_count_save_for_what_this_package_requires(package: Path) -> None:
    versions = of_code(importlib.import_module("mine.scorers.tone"))["versions"]
    assert "pytest" in versions and "numpy" not in versions


def test_a_module_outside_of_a_package_has_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tone_alone.py").write_text("import neighbour_of_tone\n")
    (tmp_path / "neighbour_of_tone.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("tone_alone")
    assert set(of_code(module)["source"]) == {"tone_alone", "neighbour_of_tone"}
    (tmp_path / "neighbour_of_tone.py").write_text("x = 1\n")
    assert of_code(module)["source"]["neighbour_of_tone"] != of_value("")
