"""Sampling replies, also from a policy pulled back towards its reference.

Each reply has random numbers of its own, made from the seed, the place of its prompt and its own number. What is drawn
therefore depends neither on the batch that a reply is in nor on where an interrupted call went on.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from robustalign.config import SamplingConfig
from robustalign.policies.decoding import Decoding
from robustalign.policies.encode import Encoder
from robustalign.policies.unfinished import Unfinished
from robustalign.progress import paced

LEAVING = 1 / 8
"""Share of a batch's rows that have ended when they leave it: leaving copies the cache of those that stay."""


@dataclass(frozen=True)
class Request:
    """``count`` replies to each prompt, how they are drawn, and the seed of the draws."""

    prompts: Sequence[Sequence[int]]
    count: int
    sampling: SamplingConfig
    seed: int

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """(prompt, number) of every reply; prompts of like length beside each other, replies to a prompt together."""
        order = sorted(range(len(self.prompts)), key=lambda i: (len(self.prompts[i]), i))
        return [(i, n) for i in order for n in range(self.count)]

    def batches(self, known: Container[int] = (), rank: int = 0, ranks: int = 1) -> list[list[int]]:
        """A rank's share of the places in ``rows``, in batches without what is ``known``."""
        size = self.sampling.batch_size
        batches = [range(start, min(start + size, len(self.rows))) for start in range(0, len(self.rows), size)]
        left = ([place for place in batch if place not in known] for batch in batches[rank::ranks])
        return [batch for batch in left if batch]

    def uniform(self, batch: Sequence[tuple[int, int]]) -> Tensor:
        """``[B, max_new_tokens]`` fp64 in [0, 1): the numbers of each row, whatever else is in the batch."""
        shape = (self.count, self.sampling.max_new_tokens)
        of_prompt = {i: np.random.default_rng([self.seed, i]).random(shape) for i in {i for i, _ in batch}}
        return torch.from_numpy(np.stack([of_prompt[i][n] for i, n in batch]))

    def by_prompt(self, drawn: Mapping[int, list[int]]) -> list[list[list[int]]]:
        """The replies of all places in ``rows`` as ``[prompt][number]``."""
        replies: list[list[list[int]]] = [[] for _ in self.prompts]
        for place, (prompt, _) in enumerate(self.rows):
            replies[prompt].append(drawn[place])
        return replies


def sample_replies(
    model: PreTrainedModel,
    encoder: Encoder,
    request: Request,
    *,
    progress: str | None = None,
    unfinished: Unfinished | None = None,
) -> list[list[list[int]]]:
    """The replies as ids: ``[prompt][number] -> ids``.

    A reply holds what was sampled, up to and with the first token that ends it; one that was cut at
    ``sampling.max_new_tokens`` stays open. No random state is touched. With ``unfinished`` an interrupted call goes on
    where it was.
    """
    return request.by_prompt(sample_share(model, encoder, request, progress=progress, unfinished=unfinished))


def sample_share(
    model: PreTrainedModel,
    encoder: Encoder,
    request: Request,
    *,
    rank: int = 0,
    ranks: int = 1,
    progress: str | None = None,
    unfinished: Unfinished | None = None,
) -> dict[int, list[int]]:
    """The replies that ``unfinished`` knows and those of this rank's batches, by their place in ``request.rows``."""
    replies = {} if unfinished is None else unfinished.load()
    for places in paced(request.batches(replies, rank, ranks), progress):
        drawn, _ = _replies([model], 1.0, encoder, request, [request.rows[place] for place in places])
        replies |= dict(zip(places, drawn, strict=True))
        if unfinished is not None:
            unfinished.save(replies)
    if unfinished is not None and ranks > 1:
        unfinished.save(replies, now=True)
    return replies


def compared_replies(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    encoder: Encoder,
    request: Request,
    *,
    shrink: float = 1.0,
    progress: str | None = None,
) -> tuple[list[list[list[int]]], np.ndarray]:
    """Replies as :func:`sample_replies` has them, and the divergence of the policy from its reference along each.

    With ``shrink`` below 1 the policy is the one of the logits ``ref + shrink (policy - ref)``: the shrinkage control,
    as a robust method must do better than DPO made smaller this way.

    Returns:
        The replies, and ``[P, count]`` fp64, nats: sum_t KL(pi(. | s, a_<t) || ref(. | s, a_<t)) along each reply, over
        the whole vocabulary, before ``sampling`` sharpens or cuts anything.
    """
    models = [model] if model is reference else [model, reference]
    replies: dict[int, list[int]] = {}
    kl = np.zeros((len(request.prompts), request.count))
    for places in paced(request.batches(), progress):
        batch = [request.rows[place] for place in places]
        drawn, kl[tuple(zip(*batch, strict=True))] = _replies(models, shrink, encoder, request, batch)
        replies |= dict(zip(places, drawn, strict=True))
    return request.by_prompt(replies), kl


def end_tokens(model: PreTrainedModel, encoder: Encoder) -> frozenset[int]:
    """Every token that ends a reply: those of the tokenizer and its template, and of the model's generation config."""
    config: Any = model.generation_config
    ids = config.eos_token_id
    return encoder.ends | frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def draw(logits: Tensor, uniform: Tensor, sampling: SamplingConfig) -> Tensor:
    """A token ``[B]`` for each row of ``logits [B, V]`` and each number ``[B]`` in [0, 1): the inverse of the law.

    The law is the softmax at ``sampling.temperature`` of the ``top_k`` likeliest tokens; of those, the likeliest that
    hold ``top_p`` of the mass.

    Raises:
        ValueError: logits are not finite.
    """
    tokens = None
    if sampling.top_k or sampling.top_p < 1:
        logits, tokens = logits.topk(min(sampling.top_k or logits.shape[-1], logits.shape[-1]))
    mass = (logits / sampling.temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    total = mass[:, -1:]
    if not bool(total.isfinite().all()):
        raise ValueError("no token can be drawn: the logits of the policy or its reference are not finite")
    if sampling.top_p < 1:
        total = mass.gather(1, (mass < sampling.top_p).sum(1, keepdim=True).clamp(max=mass.shape[-1] - 1))
    at = torch.minimum(uniform[:, None] * total, total.nextafter(torch.zeros_like(total)))
    place = torch.searchsorted(mass, at, right=True)
    return (place if tokens is None else tokens.gather(1, place))[:, 0]


@torch.no_grad()
def _replies(
    models: Sequence[PreTrainedModel],
    shrink: float,
    encoder: Encoder,
    request: Request,
    batch: Sequence[tuple[int, int]],
) -> tuple[list[list[int]], np.ndarray]:
    """The reply of the first model to each row ``[B]`` of a batch, and the divergence ``[B]`` from a second, or 0."""
    device = next(models[0].parameters()).device
    asked = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in batch))}
    ids, attention = left_padded([request.prompts[i] for i in asked], encoder.pad, device)
    owner = torch.tensor([asked[i] for i, _ in batch], device=device)
    decodings = [Decoding(each, ids, attention).keep(owner) for each in models]
    ends = torch.tensor(sorted(end_tokens(models[0], encoder)), device=device)
    uniform = request.uniform(batch).to(device)

    tokens = torch.zeros_like(uniform, dtype=torch.long)
    lengths = torch.full_like(owner, uniform.shape[1])
    kl = torch.zeros_like(uniform[:, 0])
    rows = torch.arange(len(owner), device=device)  # those still in the batch
    for step in range(uniform.shape[1]):
        logits = decodings[0].logits
        if len(models) == 2:
            reference = decodings[1].logits
            logits = logits if shrink == 1 else torch.lerp(reference, logits, shrink)
            kl[rows] += torch.where(lengths[rows] > step, divergence(logits, reference), 0.0)
        new = draw(logits, uniform[rows, step], request.sampling)
        tokens[rows, step] = new
        lengths[rows] = torch.where(torch.isin(new, ends), lengths[rows].clamp(max=step + 1), lengths[rows])
        going = lengths[rows] > step + 1
        if step + 1 == uniform.shape[1] or not going.any():
            break
        if (~going).float().mean() >= LEAVING:
            staying = going.nonzero()[:, 0]
            rows, new = rows[staying], new[staying]
            decodings = [each.keep(staying) for each in decodings]
        for each in decodings:
            each.extend(new)
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)], kl.cpu().numpy()


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """``[B]``, nats: KL(softmax p || softmax q) of logits ``[B, V]``."""
    between = torch.linalg.vecdot(p.softmax(-1), p - q)
    return (between - p.logsumexp(-1) + q.logsumexp(-1)).clamp(min=0)


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids ``[U, T]`` of prompts that end in one column, and their mask, 0 at the padding; int64 both."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, attention
