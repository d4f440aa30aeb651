"""WPO's weights: how likely a policy is to write the pairs that it is trained on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustalign.policies.logprobs import Rows, at_least_fp32, completion_head


@torch.no_grad()
def policy_weight(model: nn.Module, rows: Rows) -> Tensor:
    """WPO's weight of each pair (arXiv 2406.11827, Eq. 2), ``[B]``, fp32 at least, without gradient.

    The product over a pair's two completions of exp(mean over tokens of [log pi(y_t) - log sum_v pi(v)^2]): 1 where
    every token is as likely as the policy's own samples are on average.

    Args:
        model: the policy.
        rows: ``2B`` rows, the chosen completions and then the rejected ones.
    """
    with completion_head(model, rows.predictors):
        output = model(input_ids=rows.ids, attention_mask=rows.attention.long(), use_cache=False)
    logs = at_least_fp32(output.logits[0]).log_softmax(-1)
    tokens = rows.ids[rows.completion]
    excess = logs.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(2 * logs, -1)
    owner = rows.completion.nonzero()[:, 0]
    sums = torch.zeros(len(rows.ids), device=excess.device, dtype=excess.dtype).index_add(0, owner, excess)
    chosen, rejected = (sums / rows.completion.sum(1)).chunk(2)
    return (chosen + rejected).exp()
