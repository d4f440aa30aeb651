"""Sampling: repeatable, silent about the global random state, and pulled towards the reference exactly."""

from __future__ import annotations

import torch

from robustalign.config import SamplingConfig
from robustalign.evaluation.generated import sequence_kl
from robustalign.policies.generate import TowardsReference, _left_padded, sample_replies
from tests.conftest import tiny_llama

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 30, 31, 32, 33, 34]]
SAMPLING = SamplingConfig(max_new_tokens=5, top_k=0, batch_size=4)


def draw(model, tokenizer, **changes):
    options = {"count": 3, "sampling": SAMPLING, "seed": 3} | changes
    return sample_replies(model, tokenizer, PROMPTS, **options)


def test_same_seed_same_replies_and_the_global_state_is_untouched(tokenizer) -> None:
    model = tiny_llama(vocabulary=len(tokenizer))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = draw(model, tokenizer), draw(model, tokenizer)
    assert first == second != draw(model, tokenizer, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert [len(row) for row in first] == [3, 3, 3]
    eos = tokenizer.eos_token_id
    assert all(reply[-1] == eos and reply.count(eos) == 1 for row in first for reply in row)


@torch.no_grad()
def test_towards_reference_equals_two_full_forwards(tokenizer) -> None:
    """With its cache over three growing left-padded prefixes: ref + c (policy - ref), normalised alike."""
    policy, reference = tiny_llama(torch.float64, seed=1), tiny_llama(torch.float64, seed=2)
    batch = _left_padded(PROMPTS, 0, torch.device("cpu"))
    ids, mask, c = batch["input_ids"], batch["attention_mask"], 0.3
    shrink = TowardsReference(reference, mask, c)
    for token in (8, 9, 10):
        position = (mask.cumsum(1) - 1).clamp(min=0)
        p, q = (m(input_ids=ids, attention_mask=mask, position_ids=position).logits[:, -1] for m in (policy, reference))
        found = shrink(ids, p).log_softmax(-1)
        torch.testing.assert_close(
            found, (q + c * (p - q)).log_softmax(-1).float(), rtol=1e-5, atol=1e-5, check_dtype=False
        )
        ids = torch.cat([ids, torch.full((len(ids), 1), token)], 1)
        mask = torch.cat([mask, torch.ones(len(ids), 1, dtype=mask.dtype)], 1)


def test_shrunk_to_nothing_is_the_reference(tokenizer) -> None:
    policy, reference = (tiny_llama(vocabulary=len(tokenizer), seed=s) for s in (1, 2))
    shrunk = draw(policy, tokenizer, reference=reference, shrink=0.0)
    assert shrunk == draw(reference, tokenizer)


def test_kl_along_a_sequence() -> None:
    """0 for a policy and itself; else the sum of per-position divergences by hand."""
    p, q = tiny_llama(torch.float64, seed=1), tiny_llama(torch.float64, seed=2)
    assert abs(sequence_kl(p, p, PROMPTS, [[8, 2]] * 3, pad=0)).max() == 0
    with torch.no_grad():
        a, b = (m(input_ids=torch.tensor([[1, 7, 8, 2]])).logits[0, 1:3].log_softmax(-1) for m in (p, q))
    expected = (a.exp() * (a - b)).sum().item()
    assert abs(sequence_kl(p, q, PROMPTS, [[8, 2]] * 3, pad=0)[1] - expected) < 1e-10
