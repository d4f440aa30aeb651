"""How near a reply is to its prompt: the cosine of their embeddings by a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from robustalign.rewards import Device, Scorer, Size


def build(assets: Path, path: str, max_length: Size = 256, batch_size: Size = 64, device: Device = "cpu") -> Scorer:
    """A scorer with values in [-1, 1].

    Args:
        path: hub id or folder of an encoder whose tokens' mean is a sentence's embedding, such as all-MiniLM-L6-v2.
        max_length: tokens; longer texts keep their start.
        batch_size: texts a forward.
        device: cpu or cuda.

    Raises:
        ValueError: no such model.
    """

    def score(prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
        texts = list(dict.fromkeys([*prompts, *replies]))
        vectors = dict(zip(texts, _embed(path, texts, max_length, batch_size, device), strict=True))
        return np.array([float(vectors[p] @ vectors[r]) for p, r in zip(prompts, replies, strict=True)])

    return Scorer(score)


def _embed(path: str, texts: Sequence[str], max_length: int, batch_size: int, device: str) -> Tensor:
    """Unit vectors ``[N, D]``: the mean of a text's tokens, padding left out."""
    model, tokenizer = _loaded(path, device)
    parts = []
    for start in range(0, len(texts), batch_size):
        part = list(texts[start : start + batch_size])
        inputs = tokenizer(part, padding=True, truncation=True, max_length=max_length, return_tensors="pt").to(device)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).to(hidden)
        parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1).cpu())
    return torch.cat(parts)


@cache
def _loaded(path: str, device: str) -> tuple[Any, Any]:
    folder = str(Path(path).expanduser())
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"path: cannot load {path!r}: {str(error).strip().splitlines()[0]}") from error
    return model.to(torch.device(device)).eval(), tokenizer
