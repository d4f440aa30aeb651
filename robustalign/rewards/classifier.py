"""A score from any sequence-classification model: a hub id, a folder of ``save_pretrained`` (safetensors alone), or one
that ships (``asset:NAME``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from robustalign.bounds import OneOf
from robustalign.errors import choices
from robustalign.rewards import Device, Scorer, Size
from robustalign.rewards.shipped import placed

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,  # labels that do not exclude each other
    "softmax": lambda logits: logits.softmax(-1),  # one label of several
    "raw": lambda logits: logits,  # reward models
}
JOIN = ("chat", "pair", "reply")


def build(
    assets: Path,
    path: str,
    label: int | str = 0,
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "sigmoid",
    join: Annotated[str, OneOf(JOIN)] = "reply",
    revision: str | None = None,
    max_length: Size = 512,
    batch_size: Size = 32,
    device: Device = "cpu",
) -> Scorer:
    """A scorer of one label.

    Args:
        path: hub id, folder, or ``asset:NAME`` for a reward that ships.
        label: its index, or its name in the model's ``id2label``.
        activation: ``sigmoid``, ``softmax`` (values in [0, 1]) or ``raw``.
        join: ``chat`` (the tokenizer's template around prompt and reply), ``pair`` (as two segments), or ``reply``
            alone.
        revision: of the hub.
        max_length: tokens; longer texts keep their start.
        batch_size: texts a forward.
        device: cpu, or cuda.

    Raises:
        ValueError: ``option: problem`` of an option that cannot be.
    """
    if label != 0 or isinstance(label, str):
        label_index(loaded(path, revision, device)[0], label)  # refused before anything is scored

    def score(prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
        model, tokenizer = loaded(path, revision, device)
        index, values = label_index(model, label), np.zeros(len(replies))
        for rows, inputs in batches(tokenizer, prompts, replies, join, max_length, batch_size):
            with torch.no_grad():
                logits = model(**inputs.to(model.device)).logits.float()
            values[rows] = ACTIVATIONS[activation](logits)[:, index].double().cpu().numpy()
        return values

    return Scorer(score, unit=activation != "raw")


@cache
def loaded(path: str, revision: str | None, device: str) -> tuple[Any, Any]:
    """The model and its tokenizer, once a process.

    Raises:
        ValueError: no such model, weights that are not safetensors, or a tokenizer that cannot pad.
    """
    folder = placed(path)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options, truncation_side="right")
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, **options, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"path: cannot load {path!r}: {str(error).strip().splitlines()[0]}") from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"path: the tokenizer of {path!r} has neither a pad nor an EOS token")
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(torch.device(device)).eval(), tokenizer


def label_index(model: Any, label: int | str) -> int:
    """The column of a label.

    Raises:
        ValueError: the model has no such label.
    """
    names = {str(name): int(index) for index, name in model.config.id2label.items()}
    index = names.get(label, -1) if isinstance(label, str) else int(label)
    if not 0 <= index < model.config.num_labels:
        raise ValueError(f"label: the model has no label {label!r}; it has: {choices(names)}")
    return index


def batches(
    tokenizer: Any, prompts: Sequence[str], replies: Sequence[str], join: str, max_length: int, batch_size: int
) -> Iterator[tuple[np.ndarray, Any]]:
    """Row numbers and padded inputs with their attention mask, short texts first.

    Raises:
        ValueError: ``join: chat`` of a tokenizer without a chat template.
    """
    if join == "chat" and tokenizer.chat_template is None:
        raise ValueError("join: the tokenizer has no chat template; use pair or reply")
    order = np.argsort([len(p) + len(r) for p, r in zip(prompts, replies, strict=True)], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        questions, answers = [prompts[i] for i in rows], [replies[i] for i in rows]
        options: dict[str, Any] = {"truncation": True, "max_length": max_length, "padding": True}
        if join == "pair":
            inputs = tokenizer(questions, answers, return_tensors="pt", **options)
        elif join == "reply":
            inputs = tokenizer(answers, return_tensors="pt", **options)
        else:
            turns = [conversation(prompt, reply) for prompt, reply in zip(questions, answers, strict=True)]
            inputs = tokenizer(
                tokenizer.apply_chat_template(turns, tokenize=False),
                return_tensors="pt",
                add_special_tokens=False,
                **options,
            )
        yield rows, inputs


def conversation(prompt: str, reply: str) -> list[dict[str, str]]:
    """A prompt and its reply as chat messages."""
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
