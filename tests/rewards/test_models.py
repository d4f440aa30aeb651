"""Rewards by models: any sequence classifier, ArmoRM's published layout, a sentence encoder; all random and tiny."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from robustalign.errors import ConfigError
from robustalign.policies.load import asset_folder, load_model, load_tokenizer
from robustalign.rewards import Scorer, build_scorer, checked, scorer_module
from robustalign.rewards.armorm import OBJECTIVES
from tests.conftest import compose_config

WORDS = """the a tea coffee rain is good bad very like i you do not what book old new red blue""".split()  # noqa: SIM905
SPECIAL = ["<pad>", "<unk>", "<begin>", "<head>", "</head>", "<eot>"]
TEMPLATE = (
    "{{ '<begin>' }}{% for m in messages %}{{ '<head>' + m['role'] + '</head>' + m['content'] + '<eot>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<head>assistant</head>' }}{% endif %}"
)
PROMPTS = ["do you like tea", "what is the old red book", "is rain good"]
REPLIES = ["i like tea very very very good", "not bad", "do you like coffee"]


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """In the shape of Llama 3's: roles between header tokens, each turn ended by one token."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "user", "assistant", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", eos_token="<eot>", bos_token="<begin>",
        additional_special_tokens=["<head>", "</head>"], truncation_side="left", chat_template=TEMPLATE,
    )  # fmt: skip
    made.save_pretrained(folder)
    return made


SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    names = {0: "anger", 1: "fear", 2: "joy"}
    config = BertConfig(vocab_size=40, num_labels=3, id2label=names, initializer_range=0.5, **SMALL)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer(folder)
    return folder


def score(spec: dict, prompts=PROMPTS, replies=REPLIES) -> np.ndarray:
    return build_scorer("x", spec, Path()).score(prompts, replies)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "raw"])
@pytest.mark.parametrize("join", ["reply", "pair", "chat"])
def test_a_classifier_scores_each_text_as_if_alone(classifier, activation, join) -> None:
    model = BertForSequenceClassification.from_pretrained(classifier).eval()
    tok = PreTrainedTokenizerFast.from_pretrained(classifier)
    spec = {"scorer": "classifier", "path": str(classifier), "label": "joy", "activation": activation, "join": join}
    found = score(spec | {"batch_size": 2})
    for prompt, reply, value in zip(PROMPTS, REPLIES, found, strict=True):
        if join == "chat":
            text = f"<begin><head>user</head>{prompt}<eot><head>assistant</head>{reply}<eot>"
            inputs = tok(text, add_special_tokens=False, return_tensors="pt")
        else:
            inputs = tok(*([reply] if join == "reply" else [prompt, reply]), return_tensors="pt")
        logits = model(**inputs).logits[0].double()
        by_hand = {"sigmoid": logits.sigmoid(), "softmax": logits.softmax(0), "raw": logits}[activation][2]
        assert value == pytest.approx(float(by_hand), abs=1e-5)
    assert build_scorer("x", spec, Path()).unit is (activation != "raw")


def test_long_texts_keep_their_start(classifier) -> None:
    spec = {"scorer": "classifier", "path": str(classifier), "max_length": 4}
    cut = score(spec, ["tea"] * 2, ["i like old red tea", "i like old red book very good"])
    assert cut == pytest.approx(score(spec, ["tea"], ["i like old red"])[0], abs=1e-6)


def test_a_reward_model_without_a_pad_token_is_read_with_its_mask(tmp_path) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=40, num_labels=1, num_key_value_heads=2, pad_token_id=None, **SMALL)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer(tmp_path)
    spec = {"scorer": "classifier", "path": str(tmp_path), "activation": "raw", "join": "chat"}
    together = score(spec)
    alone = [score(spec, [p], [r])[0] for p, r in zip(PROMPTS, REPLIES, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "awe"}, r"reward\.x: label: the model has no label 'awe'; it has: anger, fear, joy"),
        ({"label": 7}, r"reward\.x: label: the model has no label 7"),
        ({"activation": "relu"}, r"reward\.x\.activation: unknown value 'relu'"),
        ({"join": "both"}, r"reward\.x\.join: unknown value 'both'"),
        ({"path": "/nowhere/at/all", "label": "joy"}, r"reward\.x: path: cannot load '/nowhere/at/all'"),
        ({"lable": 1}, r"reward\.x\.lable: unknown option"),
    ],
)
def test_options_that_cannot_be_are_refused(classifier, options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scorer("x", {"scorer": "classifier", "path": str(classifier)} | options, Path())


@pytest.fixture(scope="module")
def armorm(tmp_path_factory) -> Path:
    """A checkpoint of exactly the published layout, 16 wide in place of 4,096."""
    folder = tmp_path_factory.mktemp("armorm")
    torch.manual_seed(2)
    config = LlamaConfig(vocab_size=40, num_key_value_heads=2, initializer_range=0.5, **SMALL)
    weights = {f"model.{name}": value for name, value in LlamaModel(config).state_dict().items()}
    weights |= {"regression_layer.weight": torch.randn(19, 16), "reward_transform_matrix": torch.randn(19, 19)}
    for i, (a, b) in enumerate(((16, 12), (12, 12), (12, 12), (12, 19))):
        weights |= {f"gating.layers.{i}.weight": torch.randn(b, a), f"gating.layers.{i}.bias": torch.randn(b)}
    weights["gating.logit_scale"] = torch.tensor([1.3])
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    settings = config.to_dict() | {"num_objectives": 19, "gating_temperature": 10, "auto_map": {"AutoModel": "x.Y"}}
    (folder / "config.json").write_text(json.dumps(settings, default=str))
    tokenizer(folder)
    return folder


def armorm_by_hand(folder: Path, prompt: str, reply: str) -> tuple[torch.Tensor, float]:
    """The paper's score of one conversation, from the weights alone."""
    w = load_file(folder / "model.safetensors")
    backbone = LlamaModel(LlamaConfig.from_dict(json.loads((folder / "config.json").read_text()))).eval()
    backbone.load_state_dict({k.removeprefix("model."): v for k, v in w.items() if k.startswith("model.")})
    tok = PreTrainedTokenizerFast.from_pretrained(folder)
    asked = tok(f"<begin><head>user</head>{prompt}", add_special_tokens=False)["input_ids"]
    ids = tok(f"<begin><head>user</head>{prompt}<eot><head>assistant</head>{reply}<eot>", add_special_tokens=False)
    hidden = backbone(torch.tensor([ids["input_ids"]])).last_hidden_state[0]
    gate = hidden[len(asked)]  # the end of the user's turn
    for i in range(4):
        gate = w[f"gating.layers.{i}.weight"] @ gate + w[f"gating.layers.{i}.bias"]
        gate = gate.relu() if i < 3 else gate
    rewards = w["regression_layer.weight"] @ hidden[-1]
    gates = (gate / 10).softmax(0) * w["gating.logit_scale"]
    return rewards.detach(), float(gates @ (rewards @ w["reward_transform_matrix"]))


def test_armorm_is_read_as_published(armorm) -> None:
    spec = {"scorer": "armorm", "path": str(armorm), "batch_size": 2}
    by_hand = [armorm_by_hand(armorm, p, r) for p, r in zip(PROMPTS, REPLIES, strict=True)]
    assert score(spec) == pytest.approx([total for _, total in by_hand], rel=1e-4, abs=1e-4)
    for objective in ("helpsteer-helpfulness", "beavertails-is_safe", "code-readability"):
        column = [float(rewards[OBJECTIVES.index(objective)]) for rewards, _ in by_hand]
        assert score(spec | {"objective": objective}) == pytest.approx(column, rel=1e-4, abs=1e-4)
    assert len(set(OBJECTIVES)) == 19


def test_armorm_refuses_what_it_is_not(armorm, classifier) -> None:
    with pytest.raises(ConfigError, match=r"reward\.x\.objective: unknown value 'beauty'; choose one of: argilla"):
        build_scorer("x", {"scorer": "armorm", "path": str(armorm), "objective": "beauty"}, Path())
    with pytest.raises(ValueError, match="holds no ArmoRM"):
        score({"scorer": "armorm", "path": str(classifier)})
    with pytest.raises(ValueError, match="max_length: a prompt fills it"):
        score({"scorer": "armorm", "path": str(armorm), "max_length": 5})


def test_relevance_is_the_cosine_of_mean_embeddings(tmp_path) -> None:
    torch.manual_seed(3)
    model = BertModel(BertConfig(vocab_size=40, initializer_range=0.5, **SMALL)).eval()
    model.save_pretrained(tmp_path)
    tok = tokenizer(tmp_path)
    found = score({"scorer": "relevance", "path": str(tmp_path)})
    for prompt, reply, value in zip(PROMPTS, REPLIES, found, strict=True):
        a, b = (model(**tok(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in (prompt, reply))
        assert value == pytest.approx(float(torch.cosine_similarity(a, b, 0)), abs=1e-5)


def test_fluency_is_the_mean_log_probability_of_a_replys_tokens(tmp_path) -> None:
    path = asset_folder("chitchat_tiny")
    model, tok = load_model(path, compose_config().model), load_tokenizer(path)
    for length in (512, 6):
        values = score({"scorer": "fluency", "path": str(path), "max_length": length, "batch_size": 2})
        for prompt, reply, value in zip(PROMPTS, REPLIES, values, strict=True):
            start = tok(f"<bos>{prompt}<eos>", add_special_tokens=False)["input_ids"]
            end = [*tok(reply, add_special_tokens=False)["input_ids"], tok.eos_token_id][: length - 1]
            start = start[-(length - len(end)) :]
            logps = torch.log_softmax(model(input_ids=torch.tensor([start + end])).logits[0].detach(), -1)
            alone = [float(logps[len(start) - 1 + i, token]) for i, token in enumerate(end)]
            assert value == pytest.approx(np.mean(alone), abs=1e-4)
    with pytest.raises(ValueError, match=r"path: cannot load"):
        score({"scorer": "fluency", "path": str(tmp_path / "nothing")})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, np.nan, 2.0], r"reward\.x: gave nan for 1 replies, first 'not bad'"),
        ([1.0, 2.0], r"reward\.x: gave scores of shape \(2,\) for 3 replies"),
        ([[1.0], [2.0], [3.0]], r"reward\.x: gave scores of shape \(3, 1\)"),
        (["high", "low", "low"], r"reward\.x: could not convert"),
    ],
)
def test_scores_that_are_no_scores_are_refused_by_name(values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        checked("x", Scorer(lambda prompts, replies: values), PROMPTS, REPLIES)


def test_scorers_of_models_are_found_by_name() -> None:
    for name in ("classifier", "armorm", "relevance", "fluency"):
        assert scorer_module("x", {"scorer": name}).__name__ == f"robustalign.rewards.{name}"
