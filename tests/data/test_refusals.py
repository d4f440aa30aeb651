"""What data and their keys may hide: cut files, names twice, keys that lead nowhere, rows that a key leaves out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from robustalign.config import DatasetConfig
from robustalign.data.fields import number
from robustalign.data.files import parts
from robustalign.data.formats.winner import Winner
from robustalign.data.given import nothing_left
from robustalign.data.prompts import Comparison, plain_text
from robustalign.data.reading import Account, Reading
from robustalign.data.rows import key
from robustalign.errors import ConfigError
from tests.conftest import compose_config

PAIRS = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad", "land": ("US", "UK")[i % 2]} for i in range(20)]
VOTES = [{"prompt": f"q{i}", "a": "x", "b": "y", "n1": i % 3, "n2": 0} for i in range(20)]
COUNTED = {"prompt": "prompt", "first": "a", "second": "b", "count_first": "n1", "count_second": "n2"}
REPLIES = {"replies": "rows", "text": "reply.chosen", "score": "reply.prompt"}
MESSAGES = [{"id": "1", "up": None, "text": "a"}, {"id": "2", "up": "1", "text": "b"}]
THREAD = {"id": "id", "parent": "up", "content": "text"}


def write(folder: Path, rows: list[dict[str, Any]], name: str = "d.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def read(path: Any, **settings: Any) -> tuple[list[Comparison], Account]:
    reading = Reading(DatasetConfig(**{"name": "d", "source": "preferences", "path": path} | settings))
    return list(reading.comparisons()), reading.place()[1]


def cut_gzip() -> bytes:
    whole = bytearray(gzip.compress(b"".join(json.dumps(row).encode() for row in PAIRS * 99)))
    whole[60:70] = bytes(10)
    return bytes(whole)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.json", b'[{"prompt": "q", "chosen": "a", "rejected": "b"},', r"d\.json row 2: .*cut off"),
        ("d.json", b'[{"prompt": "q", "chosen": "a", "rejected": "b"}', r"d\.json row 2: .*cut off"),
        ("d.jsonl", b'{"prompt": "q", "chosen": "a", "chosen": "b", "rejected": "c"}', r"row 1 .*'chosen' twice"),
        ("d.json", b'[{"prompt": "q", "chosen": "a", "chosen": "b", "rejected": "c"}]', r"row 1.*'chosen' twice"),
        ("d.jsonl", b"[" * 100_000, r"row 1 .*nests too deep"),
        ("d.jsonl", b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}', r"row 1 .*half of a character"),
        ("d.csv", "prompt,chosen,rejected\n".encode("utf-16"), r"d\.csv row 1 .*iconv -f utf-16"),
        ("d.jsonl.gz", cut_gzip(), r"d\.jsonl\.gz row \d+: "),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^dataset\.path: .*{message}"):
        read(str(tmp_path / name))


def test_a_parquet_column_twice_is_refused(tmp_path) -> None:
    columns = [pa.array(["x"])] * 4
    pq.write_table(
        pa.Table.from_arrays(columns, names=["prompt", "chosen", "rejected", "chosen"]), tmp_path / "d.parquet"
    )
    with pytest.raises(ConfigError, match=r"names 'chosen' twice"):
        read(str(tmp_path / "d.parquet"))


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2}]\n', '{"a": 1}\n{"a": 2}', '[\n{"a": 1},\n{"a": 2}\n]', "[]", ""]
)
def test_whole_json_files_are_read(tmp_path, text: str) -> None:
    (tmp_path / "d.json").write_text(text)
    assert [row["a"] for row in parts(str(tmp_path / "d.json"))[0].read()] == ([1, 2] if "1" in text else [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": {"lnad": "US"}}, r"where\.lnad: .*no column 'lnad'; it has: prompt"),
        ({"gather": "prmpt", "format": "scores", "fields": REPLIES}, r"gather: .*no column 'prmpt'"),
        ({"gather": "prompt"}, r"gather: makes one row of several, but no field reads them"),
        ({"thread": {"id": "prompt", "parent": "pa", "content": "chosen"}}, r"thread\.parent: .*no column 'pa'"),
        ({"turns": {"list": "said", "turn": "t", "content": "c", "best": "b"}}, r"turns\.list: .*no column 'said'"),
        ({"turns": {"names": 5, "prompt": "a", "replies": "x", "best": "b"}}, r"turns: names is a list of turns"),
        ({"columns": {"c": {"any": "prompt"}}}, r"columns\.c\.any: 'prompt' is no list"),
        ({"columns": {"c": {"zip": 5}}}, r"columns\.c\.zip: 5 is no list"),
        ({"columns": {"c": {"text": None}}}, r"columns\.c\.text: null is not text"),
        ({"columns": {"c": {"field": "prompt", "markers": {}}}}, r"columns\.c\.markers: "),
        ({"columns": {"c": {"field": "prompt", "bins": [float("nan")]}}}, r"columns\.c\.bins: .*finite"),
        ({"columns": {"c": {"field": "prompt", "bins": "035"}}}, r"columns\.c\.bins: "),
        ({"columns": {"c": {"field": "prompt", "times": float("inf")}}}, r"columns\.c\.times: "),
    ],
)
def test_a_key_that_leads_nowhere_is_refused(tmp_path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dataset\.{message}"):
        read(write(tmp_path, PAIRS), **settings)


@pytest.mark.parametrize(
    ("key_", "column", "carried", "message"),
    [
        ("lnad", "id", "side.age", r"join\.side\.key: .*no column 'lnad'"),
        ("land", "id", "side.agee", r"columns\.age: the side table side has no column 'agee'; it has: id, age"),
        ("prompt", "id", "side.age", r"join\.side\.key: none of 20 rows has a 'prompt' that is a 'id'"),
    ],
)
def test_a_side_table_that_joins_nothing_is_refused(tmp_path, key_, column, carried, message) -> None:
    side = write(tmp_path, [{"id": "US", "age": 3}], "side.jsonl")
    join = {"side": {"path": side, "key": key_, "column": column}}
    with pytest.raises(ConfigError, match=rf"^dataset\.{message}"):
        read(write(tmp_path, PAIRS), join=join, columns={"age": carried})


def test_rows_without_a_key_are_not_put_together(tmp_path) -> None:
    rows = [{"id": None, "prompt": f"q{i}", "chosen": f"a{i}", "score": i} for i in range(4)]
    fields = {"replies": "rows", "text": "reply.chosen", "score": "reply.score"}
    with pytest.raises(ConfigError, match=r"^dataset\.gather: d\.jsonl row 1 .*holds nothing to put rows together by"):
        read(write(tmp_path, rows), format="scores", gather="id", fields=fields)


@pytest.mark.parametrize(
    ("parent", "message"), [("7", "names '7', which is the id of no row"), ("2", "leads back to the row itself")]
)
def test_a_thread_that_is_broken_is_refused(tmp_path, parent: str, message: str) -> None:
    rows = [MESSAGES[0], MESSAGES[1] | {"up": parent}]
    fields = {"prompt": "thread", "chosen": "text", "rejected": "id"}
    with pytest.raises(ConfigError, match=rf"^dataset\.thread\.parent: d\.jsonl row 2 .*{message}"):
        read(write(tmp_path, rows), thread=THREAD, fields=fields, where={"id": "2"})


def test_rows_that_where_leaves_out_are_counted(tmp_path) -> None:
    found, account = read(write(tmp_path, PAIRS), where={"land": "US"})
    assert len(found) == 10 and account.splits["train"]["dropped"] == {"left out by dataset.where": 10}
    found, account = read(write(tmp_path, PAIRS), where={"land": "FR"})
    assert not found and account.splits["train"]["dropped"] == {"left out by dataset.where": 20}


@pytest.mark.parametrize("votes", ["each", "majority", "share"])
def test_pairs_that_nobody_voted_on_are_counted(tmp_path, votes: str) -> None:
    _, account = read(write(tmp_path, VOTES), format="votes", fields=COUNTED, votes=votes)
    assert sum(facts["dropped"].get("no votes", 0) for facts in account.splits.values()) == 7


def test_more_votes_than_there_are_people_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"^dataset\.fields\.count_first: d\.jsonl row 1 .*number of votes"):
        read(write(tmp_path, [VOTES[0] | {"n1": "1e12"}]), format="votes", fields=COUNTED)


def test_names_of_a_split_column_that_no_split_has_are_told(tmp_path) -> None:
    _, account = read(write(tmp_path, PAIRS), splits={"column": "land"})
    told = nothing_left(compose_config(), "train", account)
    assert told[0] == "dataset.splits" and "20 split that is not used" in told[1] and "'UK', 'US'" in told[1]


def test_files_whose_names_say_no_split_are_told_where_others_do(tmp_path) -> None:
    for name in ("train.jsonl", "test.jsonl", "more.jsonl"):
        write(tmp_path, PAIRS, name)
    assert read(str(tmp_path))[1].unused == ["one without a name"]


def test_every_file_that_is_used_needs_the_columns(tmp_path) -> None:
    write(tmp_path, PAIRS, "train.jsonl")
    write(tmp_path, [{k: v for k, v in row.items() if k != "land"} for row in PAIRS], "test.jsonl")
    with pytest.raises(ConfigError, match=r"^dataset\.columns\.land: .*test\.jsonl has no column 'land'"):
        read(f"{tmp_path}/*.jsonl", columns={"land": "land"})


def test_a_mapping_takes_of_several_splits_the_one_of_its_name(tmp_path) -> None:
    halves = {"train": Dataset.from_list(PAIRS[:15]), "test": Dataset.from_list(PAIRS[15:])}
    DatasetDict(halves).save_to_disk(tmp_path / "both")
    both = str(tmp_path / "both")
    found = parts({"train": both, "test": both})
    assert [(part.split, len(list(part.read()))) for part in found] == [("train", 15), ("test", 5)]
    with pytest.raises(ConfigError, match=r"^dataset\.path\.validation: holds several splits \(train, test\)"):
        parts({"train": both, "validation": both})


def test_hidden_folders_hold_no_data(tmp_path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    write(tmp_path / ".ipynb_checkpoints", PAIRS)
    seen = write(tmp_path, PAIRS)
    assert [part.file for part in parts(str(tmp_path))] == [seen]


def test_where_a_file_stands_is_in_the_key_only_where_a_column_is_read_from_it(tmp_path) -> None:
    def of(name: str, **settings: Any) -> dict[str, Any]:
        path = write(tmp_path, PAIRS, name)
        return key(DatasetConfig(name="d", source="preferences", path=path, **settings))

    assert of("en.jsonl") == of("de.jsonl")
    assert of("en.jsonl", columns={"lang": "_file"}) != of("de.jsonl", columns={"lang": "_file"})


def test_nothing_in_a_cell_is_nothing_in_a_column(tmp_path) -> None:
    ages = [float("nan"), "", None, 40]
    rows = [row | {"age": age} for row, age in zip(PAIRS, ages, strict=False)]
    columns = {"age": "age", "bin": {"field": "age", "bins": [0, 35]}}
    found, _ = read(write(tmp_path, rows), columns=columns)
    assert [(c.columns["age"], c.columns["bin"]) for c in found] == [("", "")] * 3 + [("40", "35+")]


def test_a_number_too_large_is_told() -> None:
    with pytest.raises(ValueError, match="more than 300 digits"):
        number(10**400)


def test_winners_of_many_digits_differ(tmp_path) -> None:
    rows = [row | {"won": 10_000_000_001 + i % 2} for i, row in enumerate(PAIRS)]
    winner = {"field": "won", "first": [10_000_000_001], "second": ["10000000002"]}
    fields = {"prompt": "prompt", "first": "chosen", "second": "rejected", "winner": winner}
    found, _ = read(write(tmp_path, rows), format="choice", fields=fields)
    assert [plain_text(c.chosen) for c in found] == ["good", "bad"] * 10


def test_truth_is_one_in_any_spelling() -> None:
    winner = Winner({"field": "w", "first": [1], "second": [0]}, "dataset.fields.winner")
    assert [winner({"w": w}) for w in (True, "True", "true", 1, "1", 1.0, "1.0")] == ["first"] * 7
    assert [winner({"w": w}) for w in (False, "False", 0, "0.0")] == ["second"] * 4


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"field": "w", "first": [1], "second": ["1", 2]}, r"winner\.second: '1' already means first"),
        ({"field": "w", "negative": "first", "first": [1]}, r"winner\.first: says nothing beside negative"),
        ({"flags": "w"}, r"winner\.flags: 'w' is no mapping"),
        ({"flags": {"frist": "a", "second": "b"}}, r"winner\.flags: "),
        ({"names": {"first": "a"}, "field": "w"}, r"winner\.names: "),
        ({"numbers": None}, r"winner\.numbers: "),
        ({"field": None}, r"winner\.field: null is not text"),
    ],
)
def test_a_winner_that_says_two_things_or_none_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dataset\.fields\.{message}"):
        Winner(spec, "dataset.fields.winner")
