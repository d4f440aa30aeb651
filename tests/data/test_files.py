"""Rows of every kind of file are the same rows; what is wrong with a file is one line that names file and row."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from robustalign.data.files import BadRow, content, parts
from robustalign.errors import ConfigError

ROWS = [{"prompt": f"q{i}\n\u2028é", "chosen": f'a, "{i}"', "rejected": "b"} for i in range(5)]


def _csv(file: Path, separator: str) -> None:
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ROWS[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(ROWS)


def _write(folder: Path, kind: str) -> Path:
    """A file of ``ROWS``."""
    file = folder / f"data.{kind.removesuffix('.gz')}"
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    match kind.removesuffix(".gz"):
        case "jsonl":
            file.write_text(lines, encoding="utf-8")
        case "json":
            file.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
        case "csv":
            _csv(file, ",")
        case "tsv":
            _csv(file, "\t")
        case "parquet":
            Dataset.from_list(ROWS).to_parquet(file)
    if kind.endswith(".gz"):
        packed = file.with_name(f"{file.name}.gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        return packed
    return file


KINDS = ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.gz", "csv.gz", "tsv.gz", "parquet.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_holds_the_same_rows(tmp_path, kind: str) -> None:
    (part,) = parts(str(_write(tmp_path, kind)))
    assert list(part.read()) == ROWS and part.columns() == ["prompt", "chosen", "rejected"]


def test_a_spreadsheet_may_part_its_columns_by_semicolons(tmp_path) -> None:
    _csv(tmp_path / "data.csv", ";")
    (part,) = parts(str(tmp_path / "data.csv"))
    assert list(part.read()) == ROWS and part.columns() == list(ROWS[0])


def test_globs_folders_lists_and_mappings(tmp_path) -> None:
    for name in ("train-0", "train-1", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"name": name}) + "\n")

    def names(path) -> list[tuple[str, str]]:
        return [(part.split, row["name"]) for part in parts(path) for row in part.read()]

    by_split = [("test", "test"), ("train", "train-0"), ("train", "train-1")]
    assert names(str(tmp_path)) == names(f"{tmp_path}/*.jsonl") == by_split
    assert names([f"{tmp_path}/test.jsonl", f"{tmp_path}/train-0.jsonl"]) == by_split[:2]
    assert names({"a": f"{tmp_path}/test.jsonl", "b": f"{tmp_path}/train-*.jsonl"}) == [
        ("a", "test"), ("b", "train-0"), ("b", "train-1"),
    ]  # fmt: skip


def test_saved_data_sets_are_known_by_their_content(tmp_path) -> None:
    for name in ("one", "two"):
        DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / name)
    one, two = parts(str(tmp_path / "one")), parts(str(tmp_path / "two"))
    assert [(part.split, len(list(part.read()))) for part in one] == [("train", 5), ("test", 1)]
    assert content(one) == content(two) != content(one[:1])


def test_a_line_that_does_not_parse_is_a_bad_row_and_the_others_are_read(tmp_path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text('{"a": 1}\n{"a": \n[1]\n{"a": 2}\n')
    first, second, third, fourth = parts(str(file))[0].read()
    assert (first, fourth) == ({"a": 1}, {"a": 2})
    assert isinstance(second, BadRow) and "is no JSON" in second.problem
    assert isinstance(third, BadRow) and "not an object" in third.problem


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.csv", b"a,b\nx,y\nz,\xe9\n", r"d\.csv row \d.*not UTF-8 \(byte 0xe9\).*iconv"),
        ("d.jsonl", b'{"a": "x"}\n{"a": "\xe9"}\n', r"d\.jsonl row \d.*not UTF-8"),
        ("d.csv", b"a,a\nx,y\n", r"d\.csv row 1: the header names 'a' twice"),
        ("d.json", b'[{"a": 1}, {"a": }]', r"d\.json row 2: "),
        ("d.json", b'[{"a": 1}, 3]', r"d\.json row 2: .*int"),
        ("d.jsonl.gz", b"no gzip", r"d\.jsonl\.gz row 1: Not a gzipped file"),
        ("d.parquet", b"no parquet", r"d\.parquet row 1: "),
        ("d.txt", b"x", r"is of no known kind"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_row(tmp_path, name: str, text: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ConfigError, match=rf"^dataset\.path: .*{message}"):
        for part in parts(str(tmp_path / name)):
            list(part.read())


@pytest.mark.parametrize("path", ["/nowhere/at/all.csv", "./nothing", "a/b/c", "*.nothing.jsonl", "", "missing.jsonl"])
def test_what_is_not_there_is_looked_for_on_no_hub(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^dataset\.path: (no file|is empty)"):
        parts(path)
