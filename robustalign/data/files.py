"""Reads files of any kind as rows. No other module opens data.

A *part* is a split as the data name it (``train_prefs``), or all rows where they name none. Rows are dictionaries,
read one at a time, so a file of any size fits into memory.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from robustalign.data import strict_json
from robustalign.errors import ConfigError
from robustalign.fingerprints import of_file

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_PEEK = 100  # rows that are read for the names of columns
_SPLIT_IN_NAME = re.compile(r"(?:^|[^a-z])(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
csv.field_size_limit(sys.maxsize)


class BadRow(Exception):
    """A row that cannot be read as the config says. ``key``: of the config; ``problem``: what is wrong and the fix."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


class LeftOut(BadRow):
    """A row that can be read and is left out for a reason. ``row``: itself, for its split."""

    def __init__(self, key: str, reason: str, row: Row) -> None:
        super().__init__(key, reason)
        self.row = row


Row = Mapping[str, Any]
Rows = Iterator["Row | BadRow"]


@dataclass(frozen=True)
class Part:
    """Rows of one split. ``split``: the data's own name of it, or ''; ``file``: where they stand, for messages;
    ``files``: whose content decides what is read, none for a hub (then ``version`` says it)."""

    split: str
    file: str
    read: Callable[[], Rows]
    files: tuple[Path, ...] = ()
    version: str = ""
    table: Callable[[], Dataset] | None = None

    def columns(self) -> list[str]:
        """Names of the columns; of a format without a header those of the first rows."""
        if self.table is not None:
            return list(self.table().column_names)
        names: dict[str, None] = {}
        for _, row in zip(range(_PEEK), self.read(), strict=False):
            if not isinstance(row, BadRow):
                names |= dict.fromkeys(row)
        return list(names)


def parts(
    path: Any, *, key: str = "dataset.path", subset: str | None = None, folder: str | None = None, revision=None
) -> list[Part]:
    """What a path holds, in order.

    Args:
        path: a hub id, a folder of ``save_to_disk`` or of files, a file, a glob, a list of these, or a mapping
            from the names of splits to these.
        key: of the config, for errors.
        subset: a hub's configuration.
        folder: a hub's ``data_dir``, or a folder below a local one.
        revision: a hub's.

    Raises:
        ConfigError: there is nothing, or it is of no known kind.
    """
    hub: dict[str, Any] = {"subset": subset, "folder": folder, "revision": revision}
    if isinstance(path, Mapping):
        each = ((str(name), partial(parts, one, key=f"{key}.{name}", **hub)) for name, one in path.items())
        all_parts = [
            replace(part, split=name) for name, read in each for part in _of_split(name, read(), f"{key}.{name}")
        ]
    elif isinstance(path, Sequence) and not isinstance(path, str):
        all_parts = [_named(part) for one in path for part in parts(one, key=key, **hub)]
    elif not path:
        raise ConfigError(key, "is empty; give a hub id, a file, a glob of files, or a folder of Dataset.save_to_disk")
    elif is_local(str(path)):
        all_parts = _local(Path(str(path)).expanduser(), folder, key)
    else:
        all_parts = list(_hub(str(path), subset, folder, revision, key))
    if not all_parts:
        raise ConfigError(key, f"{path!r} holds no file of {', '.join(SUFFIXES)}")
    return all_parts


def is_local(path: str) -> bool:
    """Whether a path is of this machine: it exists, or it cannot be the id of a hub's data set."""
    plain = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path)
    return plain is None or Path(path).expanduser().exists() or _suffix(Path(path)) is not None


def content(all_parts: Sequence[Part]) -> str:
    """20 hex digits for the bytes that would be read, whatever the name of their folder."""
    state = hashlib.sha256()
    for part in all_parts:
        state.update(f"{part.split}\0{part.version}\0{len(part.files)}\0".encode())
        for file in part.files:
            state.update(of_file(file).encode())
    return state.hexdigest()[:20]


# ---------------------------------------------------------------- places


def _of_split(name: str, all_parts: list[Part], key: str) -> list[Part]:
    """The parts of the split with that name, of data that have several splits.

    Raises:
        ConfigError: there is none.
    """
    names = list(dict.fromkeys(part.split for part in all_parts))
    if len(names) > 1 and name not in names:
        listing = ", ".join(one or "one without a name" for one in names)
        raise ConfigError(key, f"holds several splits ({listing}), none called {name!r}; name the files of one")
    return [part for part in all_parts if len(names) == 1 or part.split == name]


def _named(part: Part) -> Part:
    """A file of a list, in the split that its name says, as the files of a glob are."""
    return part if part.split or part.table is not None else replace(part, split=_split_in(Path(part.file).name))


def _local(path: Path, folder: str | None, key: str) -> list[Part]:
    path = path / folder if folder else path
    if path.is_dir():
        return _folder(path, key)
    if path.is_file():
        return [_file(path, "", key)]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
    if not matches:
        kind = "file matches" if glob.has_magic(str(path)) else "file or folder is at"
        raise ConfigError(key, f"no {kind} {str(path)!r} (looked in {Path.cwd()})")
    return [_file(match, _split_in(match.name), key) for match in matches]


def _folder(path: Path, key: str) -> list[Part]:
    if (path / "dataset_dict.json").is_file():
        names = json.loads((path / "dataset_dict.json").read_text())["splits"]
        return [_saved(path / name, name, key) for name in names]
    if (path / "state.json").is_file():
        return [_saved(path, "", key)]
    visible = (file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts))
    files = sorted(file for file in visible if file.is_file() and _suffix(file) is not None)
    return [_file(file, _split_in(file.name), key) for file in files]


def _split_in(name: str) -> str:
    match = _SPLIT_IN_NAME.search(name)
    return match[1].lower() if match else ""


def _saved(folder: Path, split: str, key: str) -> Part:
    try:
        entries = json.loads((folder / "state.json").read_text())["_data_files"]
    except Exception as error:
        raise ConfigError(key, f"cannot load {str(folder)!r}: {_first_line(error)}") from error
    files = tuple(folder / entry["filename"] for entry in entries)
    if not files:  # nothing was saved, which load_from_disk cannot read
        return Part(split, str(folder), lambda: iter(()))

    @cache
    def table() -> Dataset:
        try:
            data = load_from_disk(str(folder))
        except Exception as error:
            raise ConfigError(key, f"cannot load {str(folder)!r}: {_first_line(error)}") from error
        assert isinstance(data, Dataset)
        return data

    return Part(split, str(folder), lambda: _arrow_rows(table()), files, table=table)


@cache
def _hub(path: str, subset: str | None, folder: str | None, revision: str | None, key: str) -> tuple[Part, ...]:
    try:
        data = load_dataset(path, name=subset, data_dir=folder, revision=revision)
    except Exception as error:
        problem = f"{path!r} is no file or folder here, and cannot be loaded from the hub: {_first_line(error)}"
        raise ConfigError(key, problem) from error
    splits = data.items() if isinstance(data, DatasetDict) else [("", data)]
    return tuple(
        Part(
            split=str(name),
            file=f"{path} {name}".strip(),
            read=partial(_arrow_rows, rows),
            version=rows._fingerprint,
            table=lambda rows=rows: rows,  # type: ignore[misc]
        )
        for name, rows in splits
    )


# ---------------------------------------------------------------- kinds of files


def _suffix(file: Path) -> str | None:
    name = file.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _file(file: Path, split: str, key: str) -> Part:
    suffix = _suffix(file)
    readers: dict[str, Callable[[Path], Rows]] = {
        ".jsonl": _json_lines,
        ".json": _json_values,
        ".csv": partial(_separated, ","),
        ".tsv": partial(_separated, "\t"),
        ".parquet": _parquet_rows,
        ".arrow": _arrow_file,
    }
    if suffix is None:
        raise ConfigError(key, f"{str(file)!r} is of no known kind ({', '.join(SUFFIXES)}, also .gz)")
    return Part(split, str(file), partial(_guarded, readers[suffix], file, key), (file,))


def _guarded(reader: Callable[[Path], Rows], file: Path, key: str) -> Rows:
    """A reader's rows; what is wrong with the file as a whole becomes one line with the row that it happened at."""
    number = 0
    try:
        for row in reader(file):
            number += 1
            yield row
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        encoding = "utf-16" if number == 0 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise ConfigError(
            key,
            f"{file.name} row {number + 1} or one soon after it is not UTF-8 (byte 0x{byte:02x}); "
            f"convert the file: iconv -f {encoding} -t utf-8",
        ) from error
    except (csv.Error, OSError, EOFError, ValueError, NotImplementedError, zlib.error) as error:
        raise ConfigError(key, f"{file.name} row {number + 1}: {_first_line(error)}") from error


def _text(file: Path) -> IO[str]:
    if file.suffix.lower() == ".gz":
        return io.TextIOWrapper(gzip.open(file, "rb"), encoding="utf-8-sig", newline="")
    return open(file, encoding="utf-8-sig", newline="")


def _json_lines(file: Path) -> Rows:
    with _text(file) as stream:
        for line in stream:
            if line.strip():
                yield _object(line)


def _object(line: str) -> Row | BadRow:
    try:
        row = strict_json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow("dataset.path", f"is no JSON ({error.msg} at character {error.pos + 1})")
    except ValueError as error:
        return BadRow("dataset.path", f"cannot be read: {error}")
    if not isinstance(row, dict):
        return BadRow("dataset.path", f"is {type(row).__name__}, not an object with named fields")
    return row


def _json_values(file: Path) -> Rows:
    with _text(file) as stream:
        for row in strict_json.values(stream):
            if not isinstance(row, dict):
                raise ValueError(f"holds {type(row).__name__} where an object with named fields is expected")
            yield row


def _separated(separator: str, file: Path) -> Rows:
    with _text(file) as stream:
        line = stream.readline()
        if separator == "," and "," not in line and ";" in line:
            separator = ";"  # as spreadsheets write where the comma is in numbers
        rows = csv.reader(itertools.chain([line], stream), delimiter=separator, strict=True)
        header = next(rows, [])
        _once(header)
        for cells in rows:
            if not cells:
                continue
            if len(cells) == len(header):
                yield dict(zip(header, cells, strict=True))
            else:
                yield BadRow("dataset.path", f"has {len(cells)} cells where the header has {len(header)}")


def _once(header: Sequence[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"the header names {', '.join(map(repr, repeated))} twice")


def _parquet_rows(file: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.BufferReader(gzip.decompress(file.read_bytes())) if file.suffix.lower() == ".gz" else file
    with pq.ParquetFile(source) as table:
        _once(table.schema_arrow.names)
        for batch in table.iter_batches(batch_size=1024):
            yield from batch.to_pylist()


def _arrow_file(file: Path) -> Rows:
    return _arrow_rows(Dataset.from_file(str(file)))


def _arrow_rows(data: Dataset) -> Rows:
    for table in data.with_format("arrow").iter(batch_size=1024):
        yield from table.to_pylist()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first(rows: Iterable[Row | BadRow]) -> Row | None:
    """The first row that can be read."""
    return next((row for row in rows if not isinstance(row, BadRow)), None)
