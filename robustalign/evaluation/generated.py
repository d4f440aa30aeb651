"""Replies that a policy generates: what they are worth, and how far the policy is from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from transformers import PreTrainedModel

from robustalign.config import SamplingConfig
from robustalign.data.candidates import Candidates
from robustalign.evaluation.metrics import REPLY_METRICS, Cell, Replies
from robustalign.policies.encode import Encoder
from robustalign.policies.generate import Request, compared_replies
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
    """
    sampled, divergence = compared_replies(
        model,
        reference,
        encoder,
        Request(candidates.prompt_ids, replies, sampling, seed),
        shrink=shrink,
        progress="sampling replies",
    )
    texts = [[encoder.text(reply) for reply in row] for row in sampled]
    answers = Replies(
        texts=texts,
        groups=np.array(candidates.table["group"][:]),
        components=components,
        scores=_scores(candidates, score, texts) if components else {},
        kl=divergence,
    )
    cells = {metric.name: dict(metric.of_replies(answers)) for metric in REPLY_METRICS}
    return {name: by_component for name, by_component in cells.items() if by_component}, texts


def _scores(candidates: Candidates, score: ScoreReplies, texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
    """``[P, R]`` raw scores of the replies, by objective."""
    prompts = [text for text, row in zip(candidates.prompt_texts, texts, strict=True) for _ in row]
    raw = score(prompts, [text for row in texts for text in row])
    return {name: values.reshape(len(texts), -1) for name, values in raw.items()}
