"""What identifies the content of files, folders and code, so that no artefact outlives what it was made from."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from types import ModuleType
from typing import Any

from robustalign.files import replace_text

LONG = 20  # hex digits of a fingerprint
_hashes: dict[tuple[str, int, int, int, int], str] = {}
_codes: dict[Path, tuple[dict[str, Any], dict[Path, str]]] = {}


def of_files(files: Iterable[Path], memory: Path | None = None) -> str:
    """Names and content of files, wherever their folder is."""
    state = hashlib.sha256()
    for file in sorted(files):
        state.update(f"{file.name}\0{of_file(file, memory)}\0".encode())
    return state.hexdigest()[:LONG]


def of_file(file: Path, memory: Path | None = None) -> str:
    """Sha256 of a file's content; read again only if its size, inode, time of edit or time of change differs.

    The time of edit can be set by hand; that of change (ctime) cannot, and tells such an edit too.

    Args:
        file: to read.
        memory: a folder where hashes are remembered for other processes.
    """
    facts = file.stat()
    at = (str(file.absolute()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
    if at not in _hashes:
        _hashes[at] = _remembered(at, file, memory) if memory else _read(file)
    return _hashes[at]


def _remembered(at: tuple[str, int, int, int, int], file: Path, memory: Path) -> str:
    note = memory / f"{hashlib.sha256(at[0].encode()).hexdigest()[:LONG]}.json"
    try:
        stored = json.loads(note.read_text())
        if stored["file"] == list(at):
            return str(stored["sha256"])
    except (FileNotFoundError, ValueError, KeyError):
        pass
    content = _read(file)
    memory.mkdir(parents=True, exist_ok=True)
    replace_text(note, json.dumps({"file": at, "sha256": content}) + "\n")
    return content


def _read(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def of_value(value: Any) -> str:
    """Plain containers, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:LONG]


def of_options(options: Mapping[str, Any], memory: Path | None = None) -> dict[str, str]:
    """The content of every file or folder that an option names."""
    contents = {}
    for key, value in options.items():
        place = Path(value).expanduser() if isinstance(value, str) else None
        if place is not None and place.is_file():
            contents[key] = of_file(place, memory)[:LONG]
        elif place is not None and place.is_dir():
            contents[key] = of_files((file for file in place.rglob("*") if file.is_file()), memory)
    return contents


def of_code(module: ModuleType, home: Path | None = None) -> dict[str, Any]:
    """What a module computes with: its source and that of the modules at its home which it imports, at any depth, and
    the versions of the distributions these come from or import (those that this package needs anyway apart).

    Args:
        module: imported.
        home: the folder whose modules count as its own; default the top of its package, or the folder it lies in.
    """
    file = Path(str(module.__file__))
    imports, read = _codes.get(file, ({}, {}))
    if read and all(path.is_file() and of_file(path) == before for path, before in read.items()):
        return imports
    home = home or _home(module.__name__, file)
    sources: dict[str, str] = {}
    others: set[str] = {module.__name__.partition(".")[0]}
    paths: list[Path] = []
    waiting = [(module.__name__, file)]
    while waiting:
        name, path = waiting.pop()
        if name in sources or path.suffix != ".py":
            continue
        sources[name] = of_file(path)[:LONG]
        paths.append(path)
        for imported in _imports(name, path):
            file_of_import = _located(imported)
            if file_of_import is not None and _below(file_of_import, home):
                waiting.append((imported, file_of_import))
            else:
                others.add(imported.partition(".")[0])
    found_all = {"source": sources, "versions": _versions(others)}
    _codes[file] = found_all, {path: of_file(path) for path in paths}
    return found_all


def _home(name: str, file: Path) -> Path:
    return file.parents[name.count(".") - (file.name != "__init__.py")] if "." in name else file.parent


def _below(file: Path, home: Path) -> bool:
    """Whether a file is part of a home: an environment that lies in there is not."""
    return file.is_relative_to(home) and "site-packages" not in file.relative_to(home).parts


def _imports(name: str, path: Path) -> Iterator[str]:
    """Modules that a source file imports, anywhere in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module or "") if part)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _located(name: str) -> Path | None:
    """The file of a module, if there is one; nothing that is not imported yet is run but the packages above it."""
    if name.partition(".")[0] in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None


def _versions(tops: Iterable[str]) -> dict[str, str]:
    distributions = _distributions()
    names = {name for top in tops for name in distributions.get(top, ())} - _needed_anyway()
    return {name: version(name) for name in sorted(names)}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


@cache
def _needed_anyway() -> frozenset[str]:
    """This package and what it requires: their versions stand in every run's ``environment.json``."""
    try:
        lines = [line for line in requires("robustalign") or () if "extra ==" not in line]
    except PackageNotFoundError:
        lines = []
    names = {line.split(";")[0].split(" ")[0].split("[")[0].split(">")[0].split("=")[0].strip() for line in lines}
    return frozenset(names | {"robustalign"})
