"""Packed rows give the numbers of padded rows, and give way where they cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustalign.policies.load import switch_off_noise
from robustalign.policies.logprobs import (
    PACKED_WIDTH,
    Rows,
    _token_logps,
    score_completions,
    sequence_logps,
    takes_block_masks,
)
from robustalign.policies.packing import pack
from tests.conftest import tiny_gpt2, tiny_llama

MODELS = [tiny_llama, tiny_gpt2]


def some_rows(pairs: int = 9, share: bool = True, seed: int = 0) -> Rows:
    """Pairs of ragged lengths, one-token completions among them."""
    draw = torch.Generator().manual_seed(seed)
    ids = lambda low, high: torch.randint(  # noqa: E731
        3, 97, (int(torch.randint(low, high, (), generator=draw)),), generator=draw
    ).tolist()
    prompts, completions = [ids(1, 9) for _ in range(pairs)], [ids(1, 8) for _ in range(2 * pairs)]
    return Rows.collate(prompts * 2, completions, pad=0, tree=[*range(pairs)] * 2 if share else None)


def numbers(model, rows: Rows, packed: bool, offset: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs [K], and the flat parameter gradient of a weighted sum of them."""
    model.zero_grad()
    logps = _token_logps(model, rows, offset, packed)
    (logps * torch.linspace(-1, 2, len(logps))).sum().backward()
    return logps.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", MODELS)
def test_numbers_and_gradients_are_those_of_padded_rows(make, attention: str, share: bool) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10 if make is tiny_gpt2 else 1e-6)):
        model, rows = make(dtype), some_rows(share=share)
        model.set_attn_implementation(attention)
        assert takes_block_masks(model)
        for found, expected in zip(numbers(model, rows, True), numbers(model, rows, False), strict=True):
            assert float((found - expected).norm() / expected.norm()) < tolerance


@pytest.mark.parametrize("share", [True, False])
def test_offsets_move_what_they_move_in_padded_rows(share: bool) -> None:
    """A shared prompt's gradient is the sum over its rows, at the first of them."""
    model, rows = tiny_gpt2(torch.float64), some_rows(share=share)
    offset = 0.1 * torch.randn(*rows.ids.shape, 16, dtype=torch.float64)
    if share:
        offset = torch.where(rows.prompt[:, :, None], offset.chunk(2)[0].repeat(2, 1, 1), offset)
    found, expected = (offset.clone().requires_grad_() for _ in range(2))
    torch.testing.assert_close(
        numbers(model, rows, True, found), numbers(model, rows, False, expected), rtol=1e-9, atol=1e-10
    )
    both = torch.where(rows.prompt.chunk(2)[0][:, :, None], sum(expected.grad.chunk(2)), expected.grad.chunk(2)[0])
    chosen, rejected = found.grad.chunk(2)
    torch.testing.assert_close(chosen, both if share else expected.grad.chunk(2)[0], rtol=1e-9, atol=1e-10)
    apart = rows.completion.chunk(2)[1][:, :, None] if share else True
    torch.testing.assert_close(rejected, expected.grad.chunk(2)[1] * apart, rtol=1e-9, atol=1e-10)


def test_a_token_sees_its_prompt_and_its_own_completion() -> None:
    rows = Rows.collate([[5, 6], [5, 6], [7]], [[8, 9, 2], [10, 2], [11, 2]], pad=0, tree=[0, 0, 0])
    packed = pack(rows, PACKED_WIDTH)
    assert rows.ids.flatten()[packed.source].tolist() == [[5, 6, 8, 9, 10, 7, 11]]
    assert packed.position.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert packed.predictors[1].tolist() == [1, 2, 3, 1, 4, 5, 6]
    seen = [row.nonzero()[:, 0].tolist() for row in packed.visible[0, 0]]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6]]


def test_prompts_that_differ_are_not_shared() -> None:
    """As where a merge over the border moves a token from the completion to the prompt."""
    rows = replace(some_rows(share=False), tree=torch.zeros(18, dtype=torch.int64))
    model = tiny_gpt2(torch.float64)
    torch.testing.assert_close(numbers(model, rows, True)[0], numbers(model, rows, False)[0], rtol=1e-10, atol=1e-10)


def test_many_completions_of_a_prompt_are_scored_in_any_order() -> None:
    model = tiny_gpt2(torch.float64)
    prompts = [[1, 5, 9], [1, 7], [1, 5, 9], [1, 7], [1, 5, 9]]
    completions = [[8, 2], [40, 41, 42, 2], [2], [9, 2], [30, 31, 2]]
    together = score_completions(model, prompts, completions, pad=0, batch_size=4)
    alone = [sequence_logps(model, Rows.collate([p], [c], 0))[0] for p, c in zip(prompts, completions, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone).float(), rtol=1e-6, atol=1e-6)


def test_with_gradient_checkpointing_and_adapters() -> None:
    from peft import LoraConfig, get_peft_model

    rows = some_rows()
    plain = numbers(tiny_gpt2(torch.float64), rows, False)
    model = tiny_gpt2(torch.float64)
    switch_off_noise(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    torch.testing.assert_close(numbers(model, rows, True), plain, rtol=1e-9, atol=1e-9)
    adapted = get_peft_model(
        tiny_gpt2(torch.float64), LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["c_attn"])
    )
    assert takes_block_masks(adapted)
    torch.testing.assert_close(numbers(adapted, rows, True), numbers(adapted, rows, False), rtol=1e-9, atol=1e-9)


def test_models_that_would_give_other_numbers_keep_padded_rows() -> None:
    from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

    shape = {"vocab_size": 97, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    window = MistralForCausalLM(MistralConfig(**shape, intermediate_size=16, num_key_value_heads=2, sliding_window=4))
    distance = BloomForCausalLM(BloomConfig(**shape, n_layer=1, n_head=2))
    flash = tiny_llama()
    flash.config._attn_implementation = "flash_attention_2"
    assert not any(takes_block_masks(model.eval()) for model in (window, distance, flash))
    assert sequence_logps(distance, some_rows(2)).shape == (4,)
