"""Sampling replies, also from a policy pulled back towards its reference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from robustalign.config import SamplingConfig
from robustalign.policies.encode import Encoder
from robustalign.policies.unfinished import Unfinished
from robustalign.progress import paced


class TowardsReference(LogitsProcessor):
    """Turns policy logits into ``ref + c (policy - ref)``: the policy with its margins times c.

    The shrinkage control: a robust method must do better than DPO made smaller this way. Holds the
    reference's own key-value cache for one call of ``generate``.
    """

    def __init__(self, reference: PreTrainedModel, attention: Tensor, c: float) -> None:
        self.reference, self.attention, self.c = reference, attention, c
        self.cache = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        new = input_ids if self.cache is None else input_ids[:, -1:]
        if self.cache is not None:
            self.attention = torch.cat([self.attention, self.attention.new_ones(len(new), 1)], dim=1)
        position = (self.attention.cumsum(1) - 1).clamp(min=0)[:, -new.shape[1] :]
        output = self.reference(
            input_ids=new,
            attention_mask=self.attention,
            position_ids=position,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = output.past_key_values
        reference = output.logits[:, -1].float().log_softmax(-1)
        return reference + self.c * (scores.float().log_softmax(-1) - reference)


@torch.no_grad()
def sample_replies(
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[Sequence[int]],
    *,
    count: int,
    sampling: SamplingConfig,
    seed: int,
    reference: PreTrainedModel | None = None,
    shrink: float = 1.0,
    progress: str | None = None,
    unfinished: Unfinished | None = None,
) -> list[list[list[int]]]:
    """``count`` replies to each prompt as ids: ``[prompt][reply] -> ids``.

    A reply holds what was sampled, up to and with the first token that ends it; one that was cut at
    ``sampling.max_new_tokens`` stays open. The global random state is left as it was. With ``reference`` and
    ``shrink`` < 1 the replies come from ``ref + shrink (policy - ref)`` logits. With ``unfinished`` an interrupted call
    goes on where it was.
    """
    device = next(model.parameters()).device
    ends = end_tokens(model, encoder)
    order = sorted((i for i in range(len(prompts)) for _ in range(count)), key=lambda i: (len(prompts[i]), i))
    settings = _settings(sampling, ends, encoder.pad)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _only(settings, model):
        torch.manual_seed(seed)
        sampled = [] if unfinished is None else unfinished.load(device)
        for start in paced(range(len(sampled), len(order), sampling.batch_size), progress):
            chosen = order[start : start + sampling.batch_size]
            batch = _left_padded([prompts[i] for i in chosen], encoder.pad, device)
            processors = LogitsProcessorList()
            if reference is not None and shrink != 1.0:
                processors.append(TowardsReference(reference, batch["attention_mask"], shrink))
            ids = model.generate(**batch, logits_processor=processors)  # type: ignore[operator]
            sampled += [until_end(row, ends) for row in ids[:, batch["input_ids"].shape[1] :].tolist()]
            if unfinished is not None:
                unfinished.save(sampled, device)
    replies: list[list[list[int]]] = [[] for _ in prompts]
    for i, reply in zip(order, sampled, strict=True):
        replies[i].append(reply)
    return replies


def end_tokens(model: PreTrainedModel, encoder: Encoder) -> frozenset[int]:
    """Every token that ends a reply: those of the tokenizer and its template, and of the model's generation config."""
    config: Any = model.generation_config
    ids = config.eos_token_id
    return encoder.ends | frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def until_end(ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """Sampled ids up to and with the first end; all of them where there is none."""
    stop = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:stop])


def _settings(sampling: SamplingConfig, ends: Collection[int], pad: int) -> GenerationConfig:
    return GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=sorted(ends),
        use_cache=True,
    )


@contextmanager
def _only(settings: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """While the block runs, the model generates by ``settings`` alone.

    Otherwise transformers fills in what they leave open from the generation config of the model (penalties, bans,
    beams), and peft from that of its wrapper.
    """
    wrapper: Any = model
    inner = wrapper.get_base_model() if hasattr(model, "get_base_model") else wrapper
    own_config = inner.generation_config
    for each in (inner, wrapper):
        each.generation_config = settings
    try:
        yield
    finally:
        for each in (inner, wrapper):
            each.generation_config = own_config


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return {"input_ids": ids, "attention_mask": mask}
