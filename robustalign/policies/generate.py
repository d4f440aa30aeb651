"""Sampling replies, also from a policy pulled back towards its reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from robustalign.config import SamplingConfig
from robustalign.policies.encode import close


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
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    count: int,
    sampling: SamplingConfig,
    seed: int,
    reference: PreTrainedModel | None = None,
    shrink: float = 1.0,
    progress: str | None = None,
) -> list[list[list[int]]]:
    """``count`` replies to each prompt as ids that end in one EOS: ``[prompt][reply] -> ids``.

    The global random state is left as it was. With ``reference`` and ``shrink`` < 1 the replies come
    from ``ref + shrink (policy - ref)`` logits.
    """
    device = next(model.parameters()).device
    tokens = _warpers(model, tokenizer, sampling)
    order = sorted((i for i in range(len(prompts)) for _ in range(count)), key=lambda i: (len(prompts[i]), i))
    replies: list[list[list[int]]] = [[] for _ in prompts]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in tqdm(
            range(0, len(order), sampling.batch_size), desc=progress, disable=progress is None or None, leave=False
        ):
            chosen = order[start : start + sampling.batch_size]
            batch = _left_padded([prompts[i] for i in chosen], tokenizer.pad_token_id, device)
            processors = LogitsProcessorList()
            if reference is not None and shrink != 1.0:
                processors.append(TowardsReference(reference, batch["attention_mask"], shrink))
            ids = model.generate(**batch, **tokens, logits_processor=processors)  # type: ignore[operator]
            for i, row in zip(chosen, ids[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
                replies[i].append(close(tokenizer, row))
    return replies


def _warpers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: SamplingConfig) -> dict:
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "use_cache": True,
    }


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return {"input_ids": ids, "attention_mask": mask}
