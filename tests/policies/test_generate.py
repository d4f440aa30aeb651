"""Sampling: repeatable, silent about the global random state, and pulled towards the reference exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from robustalign.config import LoraConfig, ModelConfig, SamplingConfig
from robustalign.policies.decoding import Decoding
from robustalign.policies.encode import Encoder
from robustalign.policies.generate import Request, compared_replies, draw, end_tokens, sample_replies, sample_share
from robustalign.policies.load import with_adapters
from robustalign.policies.unfinished import Unfinished
from tests.conftest import tiny_gpt2, tiny_llama

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 30, 31, 32, 33, 34]]
SAMPLING = SamplingConfig(max_new_tokens=5, top_k=0, batch_size=4)


def replies_of(model, tokenizer, **changes):
    asked = {"prompts": PROMPTS, "count": 3, "sampling": SAMPLING, "seed": 3}
    request = Request(**{key: changes.pop(key, value) for key, value in asked.items()})
    return sample_replies(model, Encoder(tokenizer), request, **changes)


def by_transformers(model, prompt: list[int], sampling: SamplingConfig, count: int) -> list[list[int]]:
    """Replies that ``generate`` draws, cut behind the first end."""
    torch.manual_seed(0)
    settings = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        max_new_tokens=sampling.max_new_tokens,
        pad_token_id=0,
        eos_token_id=model.generation_config.eos_token_id,
    )
    ids = torch.tensor([prompt] * count)
    rows = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[:, len(prompt) :]
    ends = set(np.atleast_1d(model.generation_config.eos_token_id).tolist())
    stops = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows.tolist()]
    return [row[:stop] for row, stop in zip(rows.tolist(), stops, strict=True)]


def test_same_seed_same_replies_and_the_global_state_is_untouched(tokenizer) -> None:
    model = tiny_llama(vocabulary=len(tokenizer))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = replies_of(model, tokenizer), replies_of(model, tokenizer)
    assert first == second != replies_of(model, tokenizer, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert [len(row) for row in first] == [3, 3, 3]


def test_a_reply_ends_where_an_end_was_sampled_or_stays_open(tokenizer) -> None:
    """Of many short replies some are cut; none of these has an end, and the others have one, which is last."""
    model = tiny_llama(vocabulary=len(tokenizer))
    ends = set(range(2, 600))  # of 4096 tokens
    model.generation_config.eos_token_id = sorted(ends)
    replies = [reply for row in replies_of(model, tokenizer, count=40) for reply in row]
    ended = [reply for reply in replies if ends & set(reply)]
    cut = [reply for reply in replies if not ends & set(reply)]
    assert min(len(ended), len(cut)) > 10
    assert all(reply[-1] in ends and not ends & set(reply[:-1]) for reply in ended)
    assert all(len(reply) == SAMPLING.max_new_tokens for reply in cut)


def test_sampling_stops_at_every_end_that_the_generation_config_names(tokenizer) -> None:
    """The same draws, cut at the first of the ends: tokens that end a reply are not passed by, and none is added."""
    model = tiny_llama(vocabulary=len(tokenizer))
    model.generation_config.eos_token_id = None
    freely = replies_of(model, tokenizer)
    ends = {tokenizer.eos_token_id, *(reply[2] for row in freely for reply in row if len(reply) > 3)}
    model.generation_config.eos_token_id = sorted(ends)
    assert end_tokens(model, Encoder(tokenizer)) == ends
    stops = [[next((i + 1 for i, t in enumerate(reply) if t in ends), 5) for reply in row] for row in freely]
    expected = [[r[:stop] for r, stop in zip(*both, strict=True)] for both in zip(freely, stops, strict=True)]
    assert replies_of(model, tokenizer) == expected != freely


def test_a_reply_depends_on_its_prompt_and_number_alone(tokenizer) -> None:
    """Not on the batch, on how many replies are drawn beside it, or on the prompts behind it."""
    model = tiny_llama(torch.float64, vocabulary=len(tokenizer))
    model.generation_config.eos_token_id = list(range(2, 600))
    whole = replies_of(model, tokenizer)
    assert replies_of(model, tokenizer, sampling=replace(SAMPLING, batch_size=1)) == whole
    assert replies_of(model, tokenizer, sampling=replace(SAMPLING, batch_size=99)) == whole
    assert [row[:3] for row in replies_of(model, tokenizer, count=7)] == whole
    assert replies_of(model, tokenizer, prompts=PROMPTS[:2]) == whole[:2]


@pytest.mark.parametrize("sampling", [{}, {"top_k": 3, "temperature": 0.6}, {"top_p": 0.7, "top_k": 9}], ids=str)
def test_first_tokens_and_lengths_have_the_law_of_transformers(sampling: dict, tokenizer) -> None:
    """Chi-square tests of 4,000 replies to a prompt against as many by ``generate``."""
    model = tiny_llama(vocabulary=len(tokenizer), initializer_range=0.15)
    model.generation_config.eos_token_id = list(range(2, 900))
    settings = replace(SAMPLING, batch_size=500, **sampling)
    ours = replies_of(model, tokenizer, prompts=[PROMPTS[0]], count=4000, sampling=settings)[0]
    theirs = by_transformers(model, PROMPTS[0], settings, 4000)
    for fact in (lambda reply: reply[0] % 13, len, lambda reply: reply[-1] % 7):
        table = np.array([np.bincount([fact(reply) for reply in part], minlength=14) for part in (ours, theirs)])
        table = table[:, table.sum(0) > 20]
        assert table.shape[1] > 1
        assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("sampling", [{}, {"top_k": 3}, {"top_p": 0.6}, {"temperature": 0.4, "top_k": 5, "top_p": 0.8}])
def test_a_draw_inverts_the_law_that_transformers_filters(sampling: dict) -> None:
    """Each token's share of an even grid of numbers is its probability after temperature, top-k and top-p."""
    settings = replace(SAMPLING, **sampling)
    logits = torch.randn(2, 11, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    warped = TemperatureLogitsWarper(float(settings.temperature))(None, logits)
    warped = TopKLogitsWarper(settings.top_k)(None, warped) if settings.top_k else warped
    warped = TopPLogitsWarper(settings.top_p)(None, warped) if settings.top_p < 1 else warped
    grid = (torch.arange(20_000) + 0.5) / 20_000
    for row in range(2):
        tokens = draw(logits[row].expand(len(grid), -1), grid.double(), settings)
        shares = torch.bincount(tokens, minlength=11) / len(grid)
        torch.testing.assert_close(shares.double(), warped[row].softmax(-1), atol=1e-4, rtol=0)


def test_the_ends_of_the_unit_interval_draw_tokens_that_are_possible() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]])
    least, most = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert draw(logits, least, SAMPLING).item() == 1 and draw(logits, most, SAMPLING).item() == 3


@pytest.mark.parametrize("top_k", [0, 3])
def test_logits_that_are_no_numbers_are_told(top_k: int) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, math.nan, 1.0, 2.0]])
    with pytest.raises(ValueError, match="are not finite"):
        draw(logits, torch.full((2,), 0.5, dtype=torch.float64), replace(SAMPLING, top_k=top_k))


LEAKS = {
    "repetition_penalty": 1.9,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(40, 120)),
    "bad_words_ids": [[7], [8]],
    "min_p": 0.2,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.01,
    "num_beams": 3,
    "forced_eos_token_id": 2,
    "max_length": 7,
    "min_new_tokens": 5,
    "begin_suppress_tokens": list(range(40, 120)),
    "exponential_decay_length_penalty": [1, 3.0],
    "temperature": 0.2,
    "top_k": 3,
}


@pytest.mark.parametrize("wrapped", [False, True], ids=["model", "adapters"])
def test_replies_are_drawn_by_our_settings_alone(wrapped: bool, tokenizer) -> None:
    """Whatever the model's own generation config says, which stays as it was."""
    model = tiny_llama(vocabulary=len(tokenizer))
    if wrapped:
        model = with_adapters(model, ModelConfig(lora=LoraConfig(r=2)), 0).eval()
    inner = model.get_base_model() if wrapped else model
    expected = replies_of(model, tokenizer)
    inner.generation_config = GenerationConfig(eos_token_id=2, **LEAKS)
    model.generation_config = inner.generation_config
    before = inner.generation_config.to_dict()
    assert replies_of(model, tokenizer) == expected
    assert inner.generation_config.to_dict() == model.generation_config.to_dict() == before


@torch.no_grad()
@pytest.mark.parametrize("shrink", [1.0, 0.3])
def test_divergence_along_a_reply_is_that_of_full_forwards(shrink: float, tokenizer) -> None:
    """Whatever the batch and the ends: sums over the positions of each reply of ref + c (policy - ref) against ref."""
    policy, reference = (tiny_llama(torch.float64, seed=s, vocabulary=len(tokenizer)) for s in (1, 2))
    policy.generation_config.eos_token_id = list(range(2, 1200))
    request = Request(PROMPTS, 9, SAMPLING, 3)
    replies, kl = compared_replies(policy, reference, Encoder(tokenizer), request, shrink=shrink)
    assert len({len(reply) for row in replies for reply in row}) > 2
    for prompt, row, found in zip(PROMPTS, replies, kl, strict=True):
        for reply, value in zip(row, found, strict=True):
            ids = torch.tensor([prompt + reply])
            p, q = (m(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for m in (policy, reference))
            p = (q + shrink * (p - q)).log_softmax(-1)
            assert abs(value - (p.exp() * (p - q)).sum().item()) < 1e-9


def test_a_policy_that_is_its_reference_has_no_divergence_and_the_same_replies(tokenizer) -> None:
    policy, other = (tiny_llama(vocabulary=len(tokenizer), seed=1) for _ in range(2))
    request = Request(PROMPTS, 3, SAMPLING, 3)
    for reference in (policy, other):
        replies, kl = compared_replies(policy, reference, Encoder(tokenizer), request)
        assert replies == replies_of(policy, tokenizer) and (kl == 0).all()


def test_shrunk_to_nothing_is_the_reference(tokenizer) -> None:
    policy, reference = (tiny_llama(vocabulary=len(tokenizer), seed=s) for s in (1, 2))
    shrunk = compared_replies(policy, reference, Encoder(tokenizer), Request(PROMPTS, 3, SAMPLING, 3), shrink=0.0)
    assert shrunk[0] == replies_of(reference, tokenizer) and (shrunk[1] == 0).all()


def small(kind: type, config: type, **changes):
    torch.manual_seed(4)
    sizes = {"vocab_size": 97, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    return kind(config(**(sizes | {"num_attention_heads": 4, "pad_token_id": 0, "eos_token_id": 2} | changes))).eval()


MODELS = {
    "llama": lambda: tiny_llama(torch.float64),
    "gpt2": lambda: tiny_gpt2(torch.float64),
    "alibi": lambda: small(BloomForCausalLM, BloomConfig, n_head=4, n_layer=2),  # masks padding in fp32 alone
    "sliding": lambda: small(MistralForCausalLM, MistralConfig, sliding_window=4, num_key_value_heads=2).double(),
    "recurrent": lambda: small(MambaForCausalLM, MambaConfig, state_size=4).double(),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", MODELS)
def test_rows_that_leave_and_repeat_have_the_logits_of_full_forwards(kind: str) -> None:
    """A shared prompt, a step, rows that leave, another step: the next token's law is the one of each row alone."""
    model = MODELS[kind]()
    ids = torch.tensor([[0, 0, 1, 5, 9], [3, 4, 1, 7, 6]])
    decoding = Decoding(model, ids, (ids > 0).long())
    decoding.keep(torch.tensor([0, 0, 1, 1]))
    decoding.extend(torch.tensor([11, 12, 13, 14]))
    decoding.keep(torch.tensor([1, 2]))
    decoding.extend(torch.tensor([21, 22]))
    for row, alone in enumerate(([1, 5, 9, 12, 21], [3, 4, 1, 7, 6, 13, 22])):
        expected = model(input_ids=torch.tensor([alone])).logits[0, -1]
        torch.testing.assert_close(decoding.logits[row], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_ranks_add_up_to_the_replies_of_one_process(ranks: int, tokenizer, tmp_path) -> None:
    """Also where the number of ranks changed after a kill."""
    model, encoder = tiny_llama(torch.float64, vocabulary=len(tokenizer)), Encoder(tokenizer)
    request, whole = Request(PROMPTS, 7, replace(SAMPLING, batch_size=2), 3), replies_of(model, tokenizer, count=7)
    file = tmp_path / "ab.unfinished"
    sample_share(model, encoder, request, rank=1, ranks=5, unfinished=Unfinished(file, 1))
    parts = [Unfinished(file, rank) for rank in range(ranks)]
    for rank, part in enumerate(parts):
        sample_share(model, encoder, request, rank=rank, ranks=ranks, unfinished=part)
    assert len(parts[0].load()) == 21
    assert request.by_prompt(parts[0].load()) == whole
    parts[0].remove()
    assert not list(tmp_path.iterdir())


def test_sampling_that_was_killed_goes_on_with_the_same_draws(tokenizer, tmp_path, monkeypatch) -> None:
    model = tiny_llama(vocabulary=len(tokenizer))
    plain, calls = Decoding.extend, []

    def dies(self, tokens):
        calls.append(tokens)
        if len(calls) == 21:
            raise KeyboardInterrupt
        plain(self, tokens)

    options = {"count": 7, "sampling": replace(SAMPLING, batch_size=2)}
    whole = replies_of(model, tokenizer, **options)
    file = Unfinished(tmp_path / "cache" / "ab.unfinished", every=0)
    monkeypatch.setattr(Decoding, "extend", dies)
    with pytest.raises(KeyboardInterrupt):
        replies_of(model, tokenizer, **options, unfinished=file)
    monkeypatch.setattr(Decoding, "extend", plain)
    assert len(file.load()) == 10, "five batches of two"
    assert replies_of(model, tokenizer, **options, unfinished=file) == whole
    file.remove()
    assert not list(file.file.parent.iterdir()) and replies_of(model, tokenizer, **options, unfinished=file) == whole
