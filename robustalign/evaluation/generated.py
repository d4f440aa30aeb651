"""Replies that a policy generates: what they are worth, and how far the policy is from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from robustalign.config import SamplingConfig
from robustalign.data.candidates import Candidates
from robustalign.evaluation.metrics import REPLY_METRICS, Cell, Replies
from robustalign.policies.encode import Encoder
from robustalign.policies.generate import sample_replies
from robustalign.policies.logprobs import Rows, at_least_fp32, completion_head
from robustalign.shifts.shift import Judge

ScoreReplies = Callable[[Sequence[str], Sequence[str]], Mapping[str, np.ndarray]]


def generated_cells(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    encoder: Encoder,
    candidates: Candidates,
    components: Sequence[Judge],
    score: ScoreReplies,
    *,
    replies: int,
    sampling: SamplingConfig,
    seed: int,
    shrink: float = 1.0,
    batch_size: int,
) -> tuple[dict[str, dict[str, Cell]], list[list[str]]]:
    """Every metric of replies by component, and the texts ``[P][R]`` of the replies.

    Args:
        model: the policy that replies.
        reference: from which its KL is taken, and towards which it is shrunk.
        encoder: of both models' text.
        candidates: whose prompts are asked.
        components: who judges the replies; without them there is no reward.
        score: raw scores of prompts and replies, by objective.
        replies: ``R``, sampled to each prompt.
        sampling: how they are drawn.
        seed: of the draws.
        shrink: below 1 replies come from the logits ``reference + shrink (policy - reference)``.
        batch_size: rows of a forward pass.
    """
    ids = candidates.prompt_ids
    options: Any = {"count": replies, "sampling": sampling, "seed": seed, "shrink": shrink}
    sampled = sample_replies(model, encoder, ids, reference=reference, progress="sampling replies", **options)
    texts = [[encoder.text(reply) for reply in row] for row in sampled]
    prompts, flat = [prompt for prompt in ids for _ in range(replies)], [reply for row in sampled for reply in row]
    divergence = sequence_kl(model, reference, prompts, flat, pad=encoder.pad, shrink=shrink, batch_size=batch_size)
    answers = Replies(
        texts=texts,
        groups=np.array(candidates.table["group"][:]),
        components=components,
        scores=_scores(candidates, score, texts) if components else {},
        kl=divergence.reshape(len(ids), replies),
    )
    cells = {metric.name: dict(metric.of_replies(answers)) for metric in REPLY_METRICS}
    return {name: by_component for name, by_component in cells.items() if by_component}, texts


def _scores(candidates: Candidates, score: ScoreReplies, texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """``[P, R]`` raw scores of the replies, by objective."""
    prompts = [text for text, row in zip(candidates.prompt_texts, texts, strict=True) for _ in row]
    raw = score(prompts, [text for row in texts for text in row])
    return {name: values.reshape(len(texts), -1) for name, values in raw.items()}


@torch.no_grad()
def sequence_kl(
    policy: PreTrainedModel,
    reference: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    pad: int,
    shrink: float = 1.0,
    batch_size: int = 64,
) -> np.ndarray:
    """``[R]`` fp64, nats: sum_t KL(pi(. | s, a_<t) || ref(. | s, a_<t)) along each completion.

    At each position the whole vocabulary is summed. With ``shrink`` below 1, pi is the policy shrunk towards the
    reference: its log-probabilities are those of ``ref + shrink (pi - ref)``, normalised.
    """
    device = next(policy.parameters()).device
    out = np.zeros(len(prompts))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(completions[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = Rows.collate([prompts[i] for i in chosen], [completions[i] for i in chosen], pad).to(device)
        predictors = rows.predictors
        p, q = (_log_softmax(model, rows, predictors) for model in (policy, reference))
        if shrink != 1.0:
            p = (q + shrink * (p - q)).log_softmax(-1)
        per_token = (p.exp() * (p - q)).sum(-1)
        owner = predictors.nonzero()[:, 0]
        out[chosen] = (
            torch.zeros(len(chosen), device=device, dtype=per_token.dtype)
            .index_add(0, owner, per_token)
            .double()
            .cpu()
            .numpy()
        )
    return out


def _log_softmax(model: PreTrainedModel, rows: Rows, predictors: torch.Tensor) -> torch.Tensor:
    with completion_head(model, predictors):
        output = model(input_ids=rows.ids, attention_mask=rows.attention.long(), use_cache=False)
    return at_least_fp32(output.logits[0]).log_softmax(-1)
