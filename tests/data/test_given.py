"""The rows that are trained on are those that a plain loop makes of the same file, token for token, in every format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from robustalign.cache import ArtefactCache
from robustalign.data.candidates import Candidates
from robustalign.data.given import ACCOUNT, given_candidates
from robustalign.data.rows import rows
from robustalign.errors import ConfigError
from robustalign.policies.encode import Encoder
from tests.conftest import compose_config

Plain = Iterator[tuple[list[str], str, str]]  # turns of the prompt (user first), chosen, rejected
WORDS = ("tea", "coffee", "rain", "snow", "cats", "dogs", "books", "films")
ASKED = [f"do you like {a} or {b}?" for a in WORDS for b in WORDS]


def _pairs(rows: list[dict]) -> Plain:
    for row in rows:
        yield [row["prompt"]], row["chosen"], row["rejected"]


def _dialogues(rows: list[dict]) -> Plain:
    for row in rows:
        beginning, _, chosen = row["chosen"].rpartition("\n\nAssistant: ")
        _, _, rejected = row["rejected"].rpartition("\n\nAssistant: ")
        turns = beginning.replace("\n\nAssistant: ", "\n\nHuman: ").split("\n\nHuman: ")[1:]
        yield turns, chosen, rejected


def _choice(rows: list[dict]) -> Plain:
    for row in rows:
        if row["strength"] < 0:
            yield [row["q"]], row["one"], row["two"]
        elif row["strength"] > 0:
            yield [row["q"]], row["two"], row["one"]


def _scores(rows: list[dict]) -> Plain:
    for row in rows:
        replies = row["replies"]
        for i, a in enumerate(replies):
            for b in replies[i + 1 :]:
                better, worse = (a, b) if a["s"] > b["s"] else (b, a)
                if a["s"] != b["s"]:
                    yield [row["q"]], better["t"], worse["t"]


def _votes(rows: list[dict]) -> Plain:
    for row in rows:
        for vote in row["votes"]:
            if vote != {"v": "none"}:
                yield ([row["q"]], *((row["x"], row["y"]) if vote["v"] == "x" else (row["y"], row["x"])))


def _rows(kind: str) -> list[dict]:
    rng = random.Random(1)
    said = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 6)))  # noqa: E731
    made = []
    for i, asked in enumerate(ASKED):
        a, b = f"yes, {said()}", f"no, {said()}"
        votes = [{"v": rng.choice(["x", "y", "none"])} for _ in range(3)]
        start = f"\n\nHuman: hi\n\nAssistant: hello\n\nHuman: {asked}\n\nAssistant: "
        made.append(
            {
                "pairs": {"prompt": asked, "chosen": a, "rejected": b},
                "dialogues": {"chosen": start + a, "rejected": start + b},
                "choice": {"q": asked, "one": a, "two": b, "strength": i % 5 - 2},
                "scores": {"q": asked, "replies": [{"t": t, "s": rng.randint(0, 2)} for t in (a, b, "i do not know")]},
                "votes": {"q": asked, "x": a, "y": b, "votes": votes},
            }[kind]
        )
    return made


PLAIN: dict[str, Callable[[list[dict]], Plain]] = {
    "pairs": _pairs, "dialogues": _dialogues, "choice": _choice, "scores": _scores, "votes": _votes,
}  # fmt: skip
MARKERS = {"\n\nHuman:": "user", "\n\nAssistant:": "assistant"}
FIELDS = {
    "pairs": {},
    "dialogues": {name: {"field": name, "markers": MARKERS} for name in ("chosen", "rejected")},
    "choice": {"prompt": "q", "first": "one", "second": "two", "winner": {"field": "strength", "negative": "first"}},
    "scores": {"prompt": "q", "replies": "replies", "text": "reply.t", "score": "reply.s"},
    "votes": {
        "prompt": "q",
        "first": "x",
        "second": "y",
        "votes": "votes",
        "winner": {"field": "vote.v", "first": ["x"], "second": ["y"], "tie": ["none"]},
    },
}


def _config(tmp_path: Path, kind: str, *words: str):
    made = _rows(kind)
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    config = compose_config("dataset=preferences", f"dataset.path={tmp_path / 'd.jsonl'}", *words)
    config.dataset.format, config.dataset.fields = kind, FIELDS[kind]
    if kind == "scores":
        config.dataset.pairs.rule = "all"
    return config, made


@pytest.mark.parametrize("kind", PLAIN)
def test_token_for_token(tmp_path, tokenizer, kind: str) -> None:
    config, made = _config(tmp_path, kind, "model.max_length=24")
    found = rows(config.dataset, ArtefactCache(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    given_candidates(config, "train", Encoder(tokenizer), found, tmp_path / "out")
    table = load_from_disk(str(tmp_path / "out"))

    everything = list(PLAIN[kind](made))
    order = found.index["train"].tolist()
    random.Random(config.dataset.seed).shuffle(order)
    expected, long = [], 0
    for place in order:
        asked, chosen, rejected = everything[place]
        roles = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(asked)]
        text = tokenizer.apply_chat_template(roles, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [
            [*tokenizer(t, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for t in (chosen, rejected)
        ]
        if len(prompt) + max(map(len, ids)) <= 24:
            expected.append((prompt, ids, [chosen, rejected]))
        else:
            long += 1
    candidates = Candidates(table, {}, np.zeros((len(table), 2)))
    assert list(zip(candidates.prompt_ids, candidates.reply_ids, table["replies"][:], strict=True)) == expected
    assert len(expected) > 20
    account = json.loads((tmp_path / "out" / ACCOUNT).read_text())
    assert account["kept"] == len(expected) and account["dropped"].get("too long", 0) == long


def test_no_more_is_tokenised_than_is_wanted_and_the_rest_is_told(tmp_path, tokenizer) -> None:
    config, made = _config(tmp_path, "pairs", "model.max_length=64", "dataset.train_prompts=10")
    found = rows(config.dataset, ArtefactCache(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    given_candidates(config, "train", Encoder(tokenizer), found, tmp_path / "out")
    account = json.loads((tmp_path / "out" / ACCOUNT).read_text())
    left = len(found.index["train"]) - 10
    assert account["kept"] == 10 and account["dropped"]["beyond dataset.train_prompts"] == left
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir() if entry.is_dir()) == [], "no scratch is left"
    assert len(made) == 64


def test_carried_columns_soft_labels_and_weights_reach_the_candidates(tmp_path, tokenizer) -> None:
    config, _ = _config(tmp_path, "votes", "model.max_length=64")
    config.dataset.votes, config.dataset.columns = "share", {"asked": "q", "first_vote": "votes.0.v"}
    found = rows(config.dataset, ArtefactCache(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    given_candidates(config, "train", Encoder(tokenizer), found, tmp_path / "out")
    table = load_from_disk(str(tmp_path / "out"))
    candidates = Candidates(table, {}, np.zeros((len(table), 2)))
    by_prompt = {row["q"]: row for row in _rows("votes")}
    for p, (asked, vote) in enumerate(zip(candidates.columns["asked"], candidates.columns["first_vote"], strict=True)):
        row = by_prompt[asked]
        counts = [sum(v["v"] == side for v in row["votes"]) for side in ("x", "y")]
        assert vote == row["votes"][0]["v"]
        assert candidates.weight[p] == sum(counts)
        assert candidates.soft_label[p] == pytest.approx(max(counts) / sum(counts))


def test_replies_that_become_the_same_tokens_are_dropped_and_counted(tmp_path) -> None:
    base = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "tea": 2}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    made = [{"prompt": f"q{i}", "chosen": "tea" if i % 4 else "rum", "rejected": "gin"} for i in range(80)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    config = compose_config("dataset=preferences", f"dataset.path={tmp_path / 'd.jsonl'}")
    found = rows(config.dataset, ArtefactCache(tmp_path / "cache"))
    (tmp_path / "out").mkdir()
    given_candidates(config, "train", Encoder(tokenizer), found, tmp_path / "out")
    account = json.loads((tmp_path / "out" / ACCOUNT).read_text())
    lost = sum(made[place]["chosen"] == "rum" for place in found.index["train"])
    assert lost > 5 and account["dropped"] == {"the same tokens in both replies": lost}
    assert account["kept"] == len(found.index["train"]) - lost == len(load_from_disk(str(tmp_path / "out")))

    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row | {"chosen": "rum"}) + "\n" for row in made))
    found = rows(config.dataset, ArtefactCache(tmp_path / "cache"))
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"^model\.path: this tokenizer makes the same tokens in both replies"):
        given_candidates(config, "train", Encoder(tokenizer), found, tmp_path / "none")
