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
        starts, ends = [], []
        for prompt, reply in zip(prompts, replies, strict=True):
            messages = [{"role": "user", "content": prompt}]
            ids = encoder.reply(messages, [{"role": "assistant", "content": reply}])[: max_length - 1]
            ends.append(ids)
            starts.append(encoder.prompt(messages)[-(max_length - len(ids)) :])
        logps = score_completions(model, starts, ends, pad=encoder.pad, batch_size=batch_size).double().numpy()
        return logps / np.array([len(ids) for ids in ends])

    return Scorer(score)


@cache
def _loaded(path: str, device: str) -> tuple[PreTrainedModel, Encoder]:
    try:
        return load_model(path, ModelConfig(name="fluency", path=path), device), Encoder(load_tokenizer(path))
    except ConfigError as error:
        raise ValueError(f"path: {error.problem}") from error
