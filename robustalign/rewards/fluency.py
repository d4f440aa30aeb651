"""How fluent a reply is: the mean log-probability of its tokens under a causal language model, such as a reference."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from robustalign.config import ModelConfig
from robustalign.errors import ConfigError
from robustalign.policies.encode import Encoder
from robustalign.policies.load import load_model, load_tokenizer
from robustalign.policies.logprobs import score_completions
from robustalign.policies.rendering import given
from robustalign.rewards import Device, Scorer, Size


def build(assets: Path, path: str, max_length: Size = 512, batch_size: Size = 64, device: Device = "cpu") -> Scorer:
    """A scorer in nats a token, at most 0; the token that ends a reply counts as one of it.

    Args:
        path: folder of ``save_pretrained``, or hub id.
        max_length: tokens of prompt and reply; a longer prompt loses its start, then the reply its end.
        batch_size: replies a forward.
        device: cpu or cuda.

    Raises:
        ValueError: no such model.
    """

    def score(prompts: Sequence[str], replies: Sequence[str]) -> np.ndarray:
        model, encoder = _loaded(str(Path(path).expanduser()), device)
        talks = [
            ([{"role": "user", "content": prompt}], [[{"role": "assistant", "content": reply}]])
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        rows = [given(row) for row in encoder.rows(talks)]
        ends = [row.replies[0][: max_length - 1] for row in rows]
        starts = [row.prompt[-(max_length - len(end)) :] for row, end in zip(rows, ends, strict=True)]
        logps = score_completions(model, starts, ends, pad=encoder.pad, batch_size=batch_size).double().numpy()
        return logps / np.array([len(ids) for ids in ends])

    return Scorer(score)


@cache
def _loaded(path: str, device: str) -> tuple[PreTrainedModel, Encoder]:
    try:
        return load_model(path, ModelConfig(name="fluency", path=path), device), Encoder(load_tokenizer(path))
    except ConfigError as error:
        raise ValueError(f"path: {error.problem}") from error
