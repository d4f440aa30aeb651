"""The preset of every public data set reads rows of its schema, with the traps that the real rows hold."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from robustalign.config import DatasetConfig, config_dir
from robustalign.data.prompts import Comparison, plain_text
from robustalign.data.reading import Account, Reading
from tests.conftest import compose_config


def write(file: Path, rows: list[dict]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode())) if file.suffix == ".gz" else file.write_text(text)
    return file


def read(config: DatasetConfig) -> tuple[list[Comparison], Account]:
    reading = Reading(config)
    found = list(reading.comparisons())
    return found, reading.place()[1]


def preset(name: str, path, *overrides: str) -> DatasetConfig:
    return compose_config(f"dataset={name}", f"dataset.path={path}", "dataset.data_dir=null", *overrides).dataset


def brief(found: list[Comparison]) -> list[tuple[list[str], str, str]]:
    """Prompt's contents, chosen and rejected."""
    return [([turn.content for turn in c.prompt.turns], plain_text(c.chosen), plain_text(c.rejected)) for c in found]


def dropped(account: Account) -> dict[str, int]:
    total: dict[str, int] = {}
    for split in account.splits.values():
        for reason, count in split["dropped"].items():
            total[reason] = total.get(reason, 0) + count
    return total


def user(text) -> dict:
    return {"role": "user", "content": text}


def assistant(text) -> dict:
    return {"role": "assistant", "content": text}


def test_ultrafeedback_drops_the_prompts_turns_and_ties(tmp_path) -> None:
    def row(i: int, scores: tuple[float, float], *system: dict) -> dict:
        both = {name: [*system, user(f"q{i}"), assistant(name)] for name in ("chosen", "rejected")}
        return {"prompt": f"q{i}", **both, "score_chosen": scores[0], "score_rejected": scores[1]}

    write(tmp_path / "train_sft.jsonl", [row(0, (9, 1))])
    write(
        tmp_path / "prefs.jsonl", [row(1, (9, 1)), row(2, (5, 5)), row(3, (7, 2), {"role": "system", "content": "s"})]
    )
    write(tmp_path / "test.jsonl", [row(4, (3, 2))])
    path = {"train_sft": "train_sft", "train_prefs": "prefs", "test_prefs": "test"}
    words = ", ".join(f"{split}: {tmp_path / file}.jsonl" for split, file in path.items())
    config = compose_config("dataset=ultrafeedback_binarized").dataset
    config.path = dict(pair.split(": ") for pair in words.split(", "))
    found, account = read(config)
    both = ("chosen", "rejected")
    assert brief(found) == [(["q1"], *both), (["s", "q3"], *both), (["q4"], *both)]
    assert [turn.role for turn in found[1].prompt.turns] == ["system", "user"], "a system turn in the data is kept"
    assert dropped(account) == {"tie": 1} and account.unused == ["train_sft"]


def test_hh_rlhf_parts_at_the_last_turn(tmp_path) -> None:
    def row(*said: str) -> str:
        return "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(said))

    rows = [
        {"chosen": row("a", "b", "c", "  yes "), "rejected": row("a", "b", "c", "no")},
        {"chosen": row("a", "b", "c", "yes"), "rejected": row("a", "B", "c", "yes")},
        {"chosen": row("a", "yes"), "rejected": row("a", "b", "c", "d")},
        {"chosen": row("a", "same"), "rejected": row("a", "same")},
        {"chosen": row("a", ""), "rejected": row("a", "b")},
    ]
    found, account = read(preset("hh_rlhf", write(tmp_path / "test.jsonl.gz", rows)))
    assert brief(found) == [(["a", "b", "c"], "  yes ", "no")], "one blank belongs to the marker"
    assert [turn.role for turn in found[0].prompt.turns] == ["user", "assistant", "user"]
    assert dropped(account) == {"replies part before the last turn": 2, "identical replies": 1, "empty reply": 1}


def test_shp_prefers_a_where_the_label_is_1(tmp_path) -> None:
    row = {"history": "post", "human_ref_A": "A", "human_ref_B": "B", "created_at_utc_A": 12, "score_ratio": 2.0}
    rows = [row | {"labels": 1, "domain": "askculinary_train"}, row | {"labels": 0, "domain": "askvet_validation"}]
    found, _ = read(preset("shp", write(tmp_path / "d.jsonl", rows)))
    assert brief(found) == [(["post"], "A", "B"), (["post"], "B", "A")]
    assert [c.columns["domain"] for c in found] == ["askculinary", "askvet"] and found[0].columns["time"] == "12"


def helpsteer2_rows() -> list[dict]:
    votes = [{"strength": -1}, {"strength": -100}, {"strength": 2}, {"strength": -3}]
    strengths = ((-2, "train"), (3, "val"), (0, "train"), (-100, "train"))
    return [
        {
            "prompt": f"one\n<extra_id_1>Assistant\ntwo\n<extra_id_1>User\n{split}",
            "response_1": "1", "response_2": "2", "preference_strength": strength, "split": split,
            "all_preferences_unprocessed": votes,
        }
        for strength, split in strengths
    ]  # fmt: skip


def test_helpsteer2_negative_strength_prefers_the_first(tmp_path) -> None:
    found, account = read(preset("helpsteer2_preference", write(tmp_path / "d.jsonl.gz", helpsteer2_rows())))
    assert brief(found) == [(["one", "two", "train"], "1", "2"), (["one", "two", "val"], "2", "1")]
    assert [turn.role for turn in found[0].prompt.turns] == ["user", "assistant", "user"]
    assert dropped(account) == {"tie": 1, "neither is valid": 1} and account.splits["validation"]["kept"] == 1


def test_helpsteer2_votes_leave_out_those_for_neither(tmp_path) -> None:
    found, _ = read(preset("helpsteer2_votes", write(tmp_path / "d.jsonl", helpsteer2_rows())))
    assert brief(found)[0] == (["one", "two", "train"], "1", "2")
    assert (found[0].soft_label, found[0].weight) == (pytest.approx(2 / 3), 3.0)


def test_helpsteer2_pairs_rows_of_one_prompt(tmp_path) -> None:
    scores = {"a": (4, 1), "b": (2, 2), "c": (3,)}
    rows = [
        {"prompt": p, "response": f"{p}{s}{i}", "helpfulness": s}
        for p, both in scores.items()
        for i, s in enumerate(both)
    ]
    found, account = read(preset("helpsteer2", write(tmp_path / "train.jsonl", rows)))
    assert brief(found) == [(["a"], "a40", "a11")]
    assert dropped(account) == {"tie": 1, "one reply alone": 1}


def test_helpsteer3_keeps_the_turns_of_its_context(tmp_path) -> None:
    row = {"domain": "code", "language": "python", "response1": "1", "response2": "2"}
    context = [user("one"), assistant("two"), user("three")]
    rows = [row | {"context": context, "overall_preference": p} for p in (-1, 3, 0)]
    found, account = read(preset("helpsteer3", write(tmp_path / "train.jsonl", rows), "dataset.subset=null"))
    assert brief(found) == [(["one", "two", "three"], "1", "2"), (["one", "two", "three"], "2", "1")]
    assert found[0].columns == {"domain": "code", "language": "python", "strength": "-1"}
    assert dropped(account) == {"tie": 1}


def test_arena_33k_words_of_ties(tmp_path) -> None:
    both = {"conversation_a": [user("q"), assistant("a")], "conversation_b": [user("q"), assistant("b")]}
    row = both | {"judge": "j1", "language": "English", "tstamp": 1682351591.5}
    rows = [row | {"winner": w} for w in ("model_a", "model_b", "tie", "tie (bothbad)")]
    late = {f"conversation_{x}": [user("q"), assistant(x), user("r"), assistant(x * 2)] for x in "ab"}
    found, account = read(preset("arena_33k", write(tmp_path / "d.jsonl", [*rows, row | late | {"winner": "model_a"}])))
    assert brief(found) == [(["q"], "a", "b"), (["q"], "b", "a")]
    assert found[0].columns == {"annotator": "j1", "language": "English", "time": "1682351591.5"}
    assert dropped(account) == {"tie": 1, "neither is valid": 1, "replies part before the last turn": 1}
    found, _ = read(preset("arena_33k", tmp_path / "d.jsonl", "dataset.ties=half"))
    assert [c.soft_label for c in found] == [None, None, 0.5]


def test_arena_55k_json_in_cells(tmp_path) -> None:
    import csv

    names = ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b", "winner_tie")
    cells = [
        ('["q, \\"1\\""]', '["a\\nb"]', '["b"]', 1, 0, 0),
        ('["q2", "r"]', '["same", "a"]', '["same", "b"]', 0, 1, 0),
        ('["q3"]', "[null]", '["b"]', 0, 1, 0),
        ('["q4"]', '["a"]', '["b"]', 0, 0, 1),
        ('["q5"', '["a"]', '["b"]', 1, 0, 0),
    ]
    with open(tmp_path / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([names, *cells])
    found, account = read(preset("arena_55k", tmp_path / "train.csv"))
    assert brief(found) == [(['q, "1"'], "a\nb", "b"), (["q2", "same", "r"], "b", "a")]
    assert dropped(account) == {"unreadable first": 2, "tie": 1}


def test_arena_140k_contents_of_parts(tmp_path) -> None:
    def message(role: str, text: str | None, kind: str = "text") -> dict:
        return {"role": role, "content": [{"type": kind, "text": text, "image": None, "mimeType": None}]}

    tags = {"creative_writing_v0.1": {"creative_writing": True}, "math_v0.1": {"math": False}}
    row = {"language": "de", "is_code": False, "timestamp": "2025-05-01 10:00:00", "category_tag": tags}
    row |= {"evaluation_session_id": "e", "conversation_b": [message("user", "q"), message("assistant", "b")]}
    fine = [message("user", "q"), message("assistant", "a")]
    image = [message("user", None, "image"), message("assistant", "a")]
    rows = [
        row | {"conversation_a": a, "winner": w} for a, w in ((fine, "model_b"), (fine, "both_bad"), (image, "model_a"))
    ]
    found, account = read(preset("arena_140k", write(tmp_path / "d.jsonl", rows)))
    assert brief(found) == [(["q"], "b", "a")]
    assert found[0].columns["creative"] == "true" and found[0].columns["math"] == "false"
    assert dropped(account) == {"neither is valid": 1, "unreadable first": 1}


def test_mt_bench_judges_the_turn_that_it_names(tmp_path) -> None:
    both = {f"conversation_{x}": [user("q"), assistant(x), user("r"), assistant(x * 2)] for x in "ab"}
    row = both | {"winner": "model_b", "judge": "expert_3"}
    write(tmp_path / "human.jsonl", [row | {"turn": 1}, row | {"turn": 2}])
    config = compose_config("dataset=mt_bench_judgments").dataset
    config.path = {"human": str(tmp_path / "human.jsonl"), "gpt4_pair": str(tmp_path / "human.jsonl")}
    found, account = read(config)
    assert brief(found) == [(["q"], "b", "a")] and found[0].columns == {"annotator": "expert_3", "turn": "1"}
    assert dropped(account) == {"replies part before the last turn": 1} and account.unused == ["gpt4_pair"]


def test_summaries_of_posts_and_of_news(tmp_path) -> None:
    post = {"title": "t", "subreddit": "s", "post": "p", "article": None}
    news = {"title": None, "subreddit": None, "post": None, "article": "n"}
    row = {"summaries": [{"text": "0"}, {"text": "1"}], "worker": "w", "batch": "b"}
    rows = [row | {"info": post, "choice": 0, "split": "train"}, row | {"info": news, "choice": 1, "split": "valid2"}]
    rows += [row | {"info": news | {"article": "m"}, "choice": 1, "split": "valid1"}]
    found, account = read(preset("summarize_from_feedback", write(tmp_path / "batch0.json", rows)))
    assert brief(found)[:2] == [(["SUBREDDIT: r/s\nTITLE: t\nPOST: p\nTL;DR:"], "0", "1"), (["n\nTL;DR:"], "1", "0")]
    assert [c.columns["subreddit"] for c in found] == ["s", "cnndm", "cnndm"]
    assert {split: facts["kept"] for split, facts in account.splits.items()} == {"train": 1, "validation": 1, "test": 1}


def test_multipref_is_one_row_and_many_votes(tmp_path) -> None:
    def vote(who: str, word: str) -> dict:
        return {"evaluator": who, "overall_pref": word, "timestamp": "2024-01-01T00:00:00"}

    row = {"text": "q", "completion_a": "a", "completion_b": "b", "source": "chat"}
    row["normal_worker_annotations"] = [vote("n1", "A-is-clearly-better"), vote("n2", "Tie")]
    row["expert_worker_annotations"] = [vote("e1", "B-is-slightly-better"), vote("e2", "A-is-slightly-better")]
    file = write(tmp_path / "d.jsonl", [row])
    found, account = read(preset("multipref", file))
    assert brief(found) == [(["q"], "a", "b"), (["q"], "b", "a"), (["q"], "a", "b")]
    assert [(c.columns["annotator"], c.columns["expertise"]) for c in found] == [
        ("n1", "normal"), ("e1", "expert"), ("e2", "expert"),
    ]  # fmt: skip
    assert dropped(account) == {"tie": 1}
    ((one,), _) = read(preset("multipref", file, "dataset.votes=share", "dataset.ties=half"))
    assert (one.soft_label, one.weight, one.columns["annotator"]) == (2.5 / 4, 4.0, "")


def test_prism_turns_go_on_from_the_chosen_reply_and_know_who_asked(tmp_path) -> None:
    def model(turn: int, text: str, score: int, chosen: bool = False) -> dict:
        return {"turn": turn, "role": "model", "content": text, "score": score, "if_chosen": chosen}

    history = [
        {"turn": 0, "role": "user", "content": "q"},
        *(model(0, "a", 90, True), model(0, "b", 20), model(0, "c", 20)),
        {"turn": 1, "role": "user", "content": "r"},
        *(model(1, "d", 50, True), model(1, "e", 10)),
    ]
    facts = {"conversation_type": "unguided", "generated_datetime": "2023-12-01"}
    rows = [{"user_id": u, "conversation_history": history, **facts} for u in ("u1", "u2")]
    survey = {
        "user_id": "u1",
        "age": "18-24",
        "gender": "Female",
        "location": {"reside_country": "UK", "special_region": "UK"},
    }
    write(tmp_path / "survey.jsonl", [survey])
    found, account = read(preset("prism", write(tmp_path / "conversations.jsonl", rows), "dataset.subset=null"))
    mine = [c for c in found if c.columns["annotator"] == "u1"]
    assert brief(mine) == [(["q"], "a", "b"), (["q"], "a", "c"), (["q", "a", "r"], "d", "e")]
    assert mine[0].columns["country"] == "UK" and found[-1].columns["country"] == "", "u2 answered no survey"
    assert dropped(account) == {"tie": 2}


def test_community_alignment_prefers_one_of_four(tmp_path) -> None:
    row = {f"first_turn_response_{x}": f"{x} <|end_of_text|>" for x in "abcd"} | {"first_turn_prompt": "q"}
    row |= {"first_turn_preferred_response": "response_b", "second_turn_prompt": "r", "third_turn_prompt": None}
    row |= {
        "second_turn_response_a": "e",
        "second_turn_response_b": "f",
        "second_turn_preferred_response": "response_a",
    }
    for name in ("id", "country", "age", "gender", "political"):
        row[f"annotator_{name}"] = name
    found, account = read(preset("community_alignment", write(tmp_path / "d.jsonl", [row | {"assigned_lang": "hi"}])))
    first = [(["q"], "b", x) for x in "acd"]
    assert sorted(brief(found)) == sorted([*first, (["q", "b", "r"], "e", "f")]), "the end token is no text"
    assert found[0].columns["country"] == "country" and found[0].columns["language"] == "hi"
    assert dropped(account) == {"tie": 3}, "of the replies that were not preferred nobody says which is better"


def test_oasst_pairs_siblings_under_their_thread(tmp_path) -> None:
    def message(id: str, parent: str | None, role: str, rank: int | None, deleted: bool = False) -> dict:
        return {
            "message_id": id, "parent_id": parent, "role": role, "text": f"text {id}", "rank": rank,
            "deleted": deleted, "lang": "es", "created_date": "2023-02-05", "message_tree_id": "1",
        }  # fmt: skip

    rows = [message("1", None, "prompter", None), message("2", "1", "assistant", 1), message("3", "1", "assistant", 0)]
    rows += [message("4", "3", "prompter", None), message("5", "4", "assistant", 0), message("6", "4", "assistant", 1)]
    rows += [message("7", "4", "assistant", 2, deleted=True), message("8", "1", "assistant", None)]
    found, account = read(preset("oasst1", write(tmp_path / "d.jsonl", rows)))
    assert brief(found) == [(["text 1"], "text 3", "text 2"), (["text 1", "text 3", "text 4"], "text 5", "text 6")]
    assert [turn.role for turn in found[1].prompt.turns] == ["user", "assistant", "user"]
    assert dropped(account) == {"no score": 1, "left out by dataset.where": 3}


def wmt_row(pair: str = "zh-en") -> dict:
    ratings = [("A", "r1", 0), ("B", "r1", 5.1), ("A", "r2", 1), ("B", "r2", 1), ("C", "r2", 0.1), ("C", "r3", 0)]
    return {
        "domain": "ted", "pair": pair, "doc": "d", "source": "s", "translations": {x: f"text {x}" for x in "ABC"},
        "ratings": [{"system": s, "rater": r, "penalty": p} for s, r, p in ratings],
    }  # fmt: skip


def test_wmt_compares_what_one_rater_rated(tmp_path) -> None:
    found, account = read(preset("wmt_mqm", write(tmp_path / "d.jsonl", [wmt_row(), wmt_row("en-de")])))
    asked = "Translate to English: s"
    expected = [([asked], "text A", "text B"), ([asked], "text C", "text A"), ([asked], "text C", "text B")]
    assert brief(found)[:3] == expected
    assert [c.columns["annotator"] for c in found[:3]] == ["r1", "r2", "r2"]
    assert brief(found)[3][0] == ["Translate to German: s"]
    assert dropped(account) == {"tie": 2, "one reply alone": 2}


def convarg_row(*values: str) -> dict:
    votes = [
        {"worker": f"w{i}", "value": v, "worker_stance": None, "time": "2016-02-01 21:12:50"}
        for i, v in enumerate(values)
    ]
    return {"id": "1", "topic": "t", "title": "Ban", "stance": "Yes", "arg1": "one", "arg2": "two", "votes": votes}


@pytest.mark.parametrize(
    ("how", "expected", "soft"),
    [
        (("votes=each",), ["one", "two", "two"], [None] * 3),
        (("votes=each", "ties=half"), ["one", "one", "two", "two"], [0.5, None, None, None]),
        (("votes=majority",), ["two"], [None]),
        (("votes=share",), ["two"], [2 / 3]),
        (("votes=share", "ties=half"), ["two"], [2.5 / 4]),
    ],
)
def test_convarg_votes(tmp_path, how, expected, soft) -> None:
    file = write(tmp_path / "d.jsonl.gz", [convarg_row("equal", "a1", "a2", "a2")])
    found, _ = read(preset("ukp_convarg1", file, *(f"dataset.{word}" for word in how)))
    assert [plain_text(c.chosen) for c in found] == expected
    assert [c.soft_label for c in found] == pytest.approx(soft)
    assert brief(found)[0][0] == ["Ban Argue for: Yes"]


def test_humour_joins_its_texts_and_no_text_crosses_a_split(tmp_path) -> None:
    items = [{"id": i, "text": f"joke {i}", "category": None if i == 1 else "pun"} for i in range(60)]
    write(tmp_path / "items.jsonl.gz", items)
    rows = [{"a": a, "b": b, "votes_a": 1, "votes_b": 3} for a in range(60) for b in range(a + 1, 60)]
    reading = Reading(preset("humour_pairs", write(tmp_path / "pairs.jsonl.gz", rows)))
    found = list(reading.comparisons())
    split, account = reading.place()
    assert brief(found)[0] == (["Say something funny."], "joke 1", "joke 0")
    assert (found[0].soft_label, found[0].weight) == (0.75, 4.0)
    assert found[0].columns == {"category_a": "pun", "category_b": "unknown"}
    texts = [
        {plain_text(r) for c, s in zip(found, split, strict=True) if s == code for r in (c.chosen, c.rejected)}
        for code in range(3)
    ]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
    assert sum(part["kept"] for part in account.splits.values()) + dropped(account)["replies of two splits"] == len(
        rows
    )


PRESETS = sorted(file.stem for file in (config_dir() / "dataset").glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("chitchat", "prompts", "preferences")])
def test_every_preset_tells_its_source_licence_and_sign(name: str) -> None:
    header = (config_dir() / "dataset" / f"{name}.yaml").read_text().partition("defaults:")[0]
    assert "Source: https://" in header
    assert any(word in header for word in ("MIT", "Apache", "CC BY", "ODC-BY", "terms"))
    assert any(word in header for word in ("Sign:", "Winner:", "Votes:", "votes_a, votes_b", "chosen first"))
