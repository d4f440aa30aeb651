"""What a policy says, what that is worth to each component, and how far it is from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from robustalign.config import SamplingConfig
from robustalign.data.candidates import Candidates
from robustalign.evaluation.targets import WHOLE, Cell
from robustalign.policies.encode import decode
from robustalign.policies.generate import sample_replies
from robustalign.policies.logprobs import Rows, at_least_fp32, completion_head
from robustalign.shifts.shift import Judge

ScoreReplies = Callable[[Sequence[str], Sequence[str]], Mapping[str, np.ndarray]]


def generated_cells(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
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
    """``reward`` (standardised, per component) and ``kl`` of ``replies`` sampled to each prompt, and their texts.

    Without components there is no reward. ``kl`` is KL(policy || reference) in nats per reply, summed over the
    sampled positions with the whole vocabulary at each. With ``shrink`` < 1 replies come from
    ``ref + shrink (policy - ref)`` logits.
    """
    ids = candidates.prompt_ids
    sampled = sample_replies(
        model, tokenizer, ids, count=replies, sampling=sampling, seed=seed, reference=reference, shrink=shrink
    )
    texts = [[decode(tokenizer, reply) for reply in row] for row in sampled]
    reward = _rewards(candidates, components, score, texts) if components else {}
    divergence = sequence_kl(
        model,
        reference,
        [prompt for prompt in ids for _ in range(replies)],
        [reply for row in sampled for reply in row],
        pad=tokenizer.pad_token_id,
        shrink=shrink,
        batch_size=batch_size,
    )
    kl = Cell(divergence.reshape(len(ids), replies).sum(1), np.full(len(ids), replies))
    return ({"reward": reward} if reward else {}) | {"kl": {WHOLE: kl}}, texts


def _rewards(
    candidates: Candidates, components: Sequence[Judge], score: ScoreReplies, texts: Sequence[Sequence[str]]
) -> dict[str, Cell]:
    """What each component thinks of the replies to the prompts that are its own."""
    replies = len(texts[0])
    asked = [text for text in candidates.asked for _ in range(replies)]
    raw = score(asked, [text for row in texts for text in row])
    scores = {name: values.reshape(len(texts), replies) for name, values in raw.items()}
    groups = np.array(candidates.table["group"][:])
    found = {}
    for component in components:
        mine = (groups == component.group) if component.group else np.ones(len(groups), dtype=bool)
        utility = component.utility(scores) * mine[:, None]
        found[component.name] = Cell(utility.sum(1), mine * replies)
    return found


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
    """sum_t KL(pi(. | s, a_<t) || ref(. | s, a_<t)) along each completion, nats, fp64 ``[R]``."""
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
