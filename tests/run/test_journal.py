"""A journal survives any kill, and tells each step once."""

from __future__ import annotations

import json

from robustalign.run.journal import Journal, read, read_from


def test_records_come_back_in_order_with_their_times(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.params({"method.name": "dpo"})
    journal.metrics(1, {"train/loss": 0.5})
    journal.tags({"device": "cpu"})
    journal.dataset("pairs", "abc", "train", 10)
    journal.artifact("results/table.csv")
    journal.close()
    records = list(read(journal.path))
    assert [record.pop("kind") for record in records] == ["params", "metrics", "tags", "dataset", "artifact"]
    times = [record.pop("time") for record in records]
    assert times == sorted(times)
    assert records[1] == {"step": 1, "values": {"train/loss": 0.5}}
    assert records[3] == {"name": "pairs", "fingerprint": "abc", "context": "train", "rows": 10}


def test_a_line_torn_at_any_byte_is_dropped_and_written_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.metrics(1, {"loss": 1.0})
    first = path.stat().st_size
    journal.metrics(2, {"loss": 2.0})
    whole = path.read_bytes()
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert [record["step"] for record in read(path)] == [1]
        again = Journal(path)
        again.metrics(1, {"loss": 1.0})
        again.metrics(2, {"loss": 2.0})
        again.close()
        assert [record["step"] for record in read(path)] == [1, 2]


def test_a_repeated_step_is_told_once(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    for step in (1, 2, 3):
        journal.metrics(step, {"loss": float(step)})
    resumed = Journal(tmp_path / "journal.jsonl")
    for step in (2, 3, 4):
        resumed.metrics(step, {"loss": 10.0, "new": 0.0})
    told = [(name, r["step"], v) for r in read(journal.path) for name, v in r["values"].items() if name == "loss"]
    assert told == [("loss", 1, 1.0), ("loss", 2, 2.0), ("loss", 3, 3.0), ("loss", 4, 10.0)]


def test_reading_goes_on_from_an_offset(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.metrics(1, {"loss": 1.0})
    ((_, offset),) = read_from(journal.path, 0)
    assert list(read_from(journal.path, offset)) == []
    journal.metrics(2, {"loss": float("nan")})
    ((record, end),) = read_from(journal.path, offset)
    assert record["step"] == 2
    assert end == journal.path.stat().st_size
    assert list(read_from(tmp_path / "none", 0)) == []


def test_a_spoilt_line_in_the_middle_costs_that_line_only(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(json.dumps({"kind": "tags", "values": {}}).encode() + b"\n\0\0\0\n" + b'{"kind": "x"}\n')
    assert [record["kind"] for record in read(path)] == ["tags", "x"]
