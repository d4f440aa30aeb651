"""``data check`` and ``data show`` tell what a file holds and how it is trained on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from robustalign.cli.data import main
from robustalign.policies.load import asset_folder, load_tokenizer

ROWS = [
    ("do you like tea?", "yes I do", "no I do not", "model_a", "US"),
    ("do you like tea?", "yes I do", "no I do not", "model_b", "UK"),
    ("do you like rain?", "a lot", "never", "tie", "US"),
    ("do you like cats?", "they are fine", "so so", "mars", "UK"),
    ("do you like dogs?", "of course", "of course", "model_b", "US"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with open(tmp_path / "votes.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("question", "answer_a", "answer_b", "winner", "country"), *ROWS])
    return tmp_path / "votes.csv"


def test_check_counts_and_lists_bad_rows_and_suggests_a_yaml(file, capsys) -> None:
    fields = "{prompt: question, first: answer_a, second: answer_b, winner: winner}"
    assert main(["check", str(file), "dataset.format=choice", f"dataset.fields={fields}"]) == 1
    told = capsys.readouterr().out
    assert "5 read, 2 comparisons of 1 prompts" in told and "1 contradict one" in told
    assert "1 tie (first: votes.csv row 3)" in told and "1 identical replies (first: votes.csv row 5)" in told
    assert "bad row     votes.csv row 4: dataset.fields.winner: unknown winner 'mars'" in told
    file.write_text(file.read_text().replace("mars", "model_a"))
    assert main(["check", str(file)]) == 0
    told = capsys.readouterr().out
    suggested = yaml.safe_load(told.partition("--config-dir:\n")[2])
    assert suggested["format"] == "choice" and suggested["columns"] == {"country": "country"}
    assert suggested["fields"] == yaml.safe_load(fields)
    assert "column      country: 2 values: UK 2, US 1" in told


def test_a_row_that_the_template_refuses_is_listed_however_late_it_stands(tmp_path, capsys) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(2500)]
    rows[2400]["prompt"] = [{"role": "tool", "content": "x"}]  # type: ignore[assignment]
    file = tmp_path / "late.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = load_tokenizer(asset_folder("chitchat_tiny"))
    no_tools = "{% if messages[0].role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    tokenizer.chat_template = no_tools + str(tokenizer.chat_template)
    shutil.copy(asset_folder("chitchat_tiny") / "config.json", tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert main(["check", str(file), "model=pretrained", f"model.path={tmp_path}"]) == 1
    told = capsys.readouterr().out
    assert "bad row     late.jsonl row 2401: model.path: the chat template refuses" in told and "most of 2,499)" in told


def test_show_prints_the_border_the_end_and_the_counts(file, capsys) -> None:
    assert main(["show", str(file), "n=1", "dataset.bad_rows=drop"]) == 0
    told = capsys.readouterr().out
    assert "do you like tea?<eos>⏐" in told and "⏐ yes i do<eos>" in told and "chosen (4 tokens, 11 with" in told
    assert "country: US" in told and told.count("──") == 1


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"prompt": "q", "chosen": "a", "rejected": "b"}], {"format": "pairs"}),
        ([{name: f"\n\nHuman: q\n\nAssistant: {name}" for name in ("chosen", "rejected")}], {"format": "dialogues"}),
        ([{"prompt": "q", "reply_1": "a", "reply_2": "b", "votes_1": 2, "votes_2": 1}], {"format": "votes"}),
        ([{"prompt": "q", "response": t, "score": ord(t)} for t in "ab"], {"format": "scores", "gather": "prompt"}),
        ([{"prompt": "q", "answers": [{"text": "a", "score": 1}, {"text": "b", "score": 2}]}], {"format": "scores"}),
        ([{"post": "q", "text": "t", "A": "x", "B": "y", "label": 0}], {"format": "choice"}),
        ([{"prompt": "q", "r1": "a", "r2": "b", "strength": -2}], {"format": "choice"}),
    ],
)  # fmt: skip
def test_what_is_suggested_reads_the_file(tmp_path, capsys, rows, expected) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["check", str(file)])
    told = capsys.readouterr().out
    suggested = yaml.safe_load(told.partition("--config-dir:\n")[2])
    assert {name: suggested[name] for name in expected} == expected
    assert f"{3 if expected['format'] == 'votes' else 1} comparisons of 1 prompts" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chek", "x"], "chek: unknown command"),
        (["check"], "PATH: is missing"),
        (["check", "/nowhere.csv"], "dataset.path: "),
        (["check", "FILE", "dataset.colour=1"], "dataset.colour"),
        (["check", "FILE", "model=null"], "model: null is no choice; choose one of: chitchat_tiny"),
        (["show", "FILE", "dataset.columns={'': a}"], "error: dataset.columns: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(file, capsys, words, message) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(file) if word == "FILE" else word for word in words])
    told = capsys.readouterr().err.strip()
    assert stopped.value.code == 2 and told.startswith("robustalign: error: ") and message in told and "\n" not in told
