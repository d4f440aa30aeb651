"""Log-probabilities against a token-by-token loop, and everything that must not change them."""

from __future__ import annotations

import pytest
import torch

from robustalign.policies.load import switch_off_noise
from robustalign.policies.logprobs import Rows, input_offset, score_completions, sequence_logps, token_logps
from tests.conftest import tiny_gpt2, tiny_llama

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 30, 31, 32, 33, 34]]
COMPLETIONS = [[8, 2], [40, 41, 42, 2], [2]]
MODELS = [tiny_llama, tiny_gpt2]


def by_loop(model, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """log pi(completion | prompt), one full forward a token."""
    total = torch.zeros((), dtype=torch.float64)
    for i, token in enumerate(completion):
        ids = torch.tensor([prompt + completion[:i]])
        total += model(input_ids=ids).logits[0, -1].log_softmax(-1)[token]
    return total


@pytest.mark.parametrize("make", MODELS)
@torch.no_grad()
def test_equals_a_token_by_token_loop(make) -> None:
    model = make(torch.float64)
    found = sequence_logps(model, Rows.collate(PROMPTS, COMPLETIONS, pad=0))
    expected = torch.stack([by_loop(model, p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("pad", [0, 2])
@torch.no_grad()
def test_padding_is_inert_whatever_its_id(make, pad: int) -> None:
    model = make(torch.float64)
    padded = sequence_logps(model, Rows.collate(PROMPTS, COMPLETIONS, pad))
    alone = [sequence_logps(model, Rows.collate([p], [c], pad))[0] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
    torch.testing.assert_close(padded, torch.stack(alone), rtol=1e-12, atol=1e-12)


def test_masks_come_from_lengths_and_count_every_completion_token() -> None:
    rows = Rows.collate(PROMPTS, COMPLETIONS, pad=2)
    assert rows.completion.sum(1).tolist() == [2, 4, 1]
    assert rows.prompt.sum(1).tolist() == [4, 2, 6]
    assert [row[mask].tolist() for row, mask in zip(rows.ids, rows.completion, strict=True)] == COMPLETIONS


@torch.no_grad()
def test_head_sees_completion_positions_only() -> None:
    model, seen = tiny_llama(), []
    token_logps(model, Rows.collate(PROMPTS, COMPLETIONS, pad=0))  # the first call looks at what the model can do
    model.get_output_embeddings().register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    token_logps(model, Rows.collate(PROMPTS, COMPLETIONS, pad=0))
    assert seen == [(1, 7, 97)]
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert seen[-1] == (1, 3, 97), "the hook must be gone after the forward"


def test_offset_moves_embeddings_and_leaves_their_gradient() -> None:
    model = tiny_llama(torch.float64)
    rows = Rows.collate(PROMPTS, COMPLETIONS, pad=0)
    offset = torch.randn(*rows.ids.shape, 16, dtype=torch.float64) * 0.1
    table = model.get_input_embeddings().weight.detach()
    moved = sequence_logps(model, rows, offset)
    by_hand = model(inputs_embeds=table[rows.ids] + offset, attention_mask=rows.attention.long()).logits.log_softmax(-1)
    picked = by_hand[:, :-1].gather(-1, rows.ids[:, 1:, None])[..., 0] * rows.completion[:, 1:]
    torch.testing.assert_close(moved, picked.sum(1), rtol=1e-12, atol=1e-12)
    moved.sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
    with input_offset(model, None):
        plain = sequence_logps(model, rows)
    assert not torch.allclose(plain, moved)


def test_scores_do_not_depend_on_order_or_batch_size() -> None:
    model = tiny_llama(torch.float64)
    one = score_completions(model, PROMPTS, COMPLETIONS, pad=0, batch_size=1)
    all_at_once = score_completions(model, PROMPTS[::-1], COMPLETIONS[::-1], pad=0, batch_size=3).flip(0)
    torch.testing.assert_close(one, all_at_once, rtol=1e-6, atol=1e-6)


def test_dropout_is_off_in_modules_and_config() -> None:
    model = tiny_gpt2(attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    switch_off_noise(model)
    model.train()
    rows = Rows.collate(PROMPTS, COMPLETIONS, pad=0)
    assert torch.equal(sequence_logps(model, rows), sequence_logps(model, rows))
