"""Sampling: repeatable, silent about the global random state, and pulled towards the reference exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from robustalign.config import LoraConfig, ModelConfig, SamplingConfig
from robustalign.evaluation.generated import sequence_kl
from robustalign.policies.encode import Encoder
from robustalign.policies.generate import TowardsReference, _left_padded, end_tokens, sample_replies, until_end
from robustalign.policies.load import with_adapters
from robustalign.policies.unfinished import Unfinished
from tests.conftest import tiny_llama

PROMPTS = [[1, 5, 9, 11], [1, 7], [1, 30, 31, 32, 33, 34]]
SAMPLING = SamplingConfig(max_new_tokens=5, top_k=0, batch_size=4)


def draw(model, tokenizer, **changes):
    options = {"count": 3, "sampling": SAMPLING, "seed": 3} | changes
    return sample_replies(model, Encoder(tokenizer), PROMPTS, **options)


def test_same_seed_same_replies_and_the_global_state_is_untouched(tokenizer) -> None:
    model = tiny_llama(vocabulary=len(tokenizer))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second = draw(model, tokenizer), draw(model, tokenizer)
    assert first == second != draw(model, tokenizer, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert [len(row) for row in first] == [3, 3, 3]


def test_a_reply_ends_where_an_end_was_sampled_or_stays_open(tokenizer) -> None:
    """Of many short replies some are cut; none of these has an end, and the others have one, which is last."""
    model = tiny_llama(vocabulary=len(tokenizer))
    ends = set(range(2, 600))  # of 4096 tokens
    model.generation_config.eos_token_id = sorted(ends)
    replies = [reply for row in draw(model, tokenizer, count=40) for reply in row]
    ended = [reply for reply in replies if ends & set(reply)]
    cut = [reply for reply in replies if not ends & set(reply)]
    assert min(len(ended), len(cut)) > 10
    assert all(reply[-1] in ends and not ends & set(reply[:-1]) for reply in ended)
    assert all(len(reply) == SAMPLING.max_new_tokens for reply in cut)


def test_sampling_stops_at_every_end_that_the_generation_config_names(tokenizer) -> None:
    """The same draws, cut at the first of the ends: tokens that end a reply are not passed by, and none is added."""
    model = tiny_llama(vocabulary=len(tokenizer))
    model.generation_config.eos_token_id = None
    freely = draw(model, tokenizer)
    ends = [tokenizer.eos_token_id, *{reply[2] for row in freely for reply in row if len(reply) > 3}]
    model.generation_config.eos_token_id = ends
    assert end_tokens(model, Encoder(tokenizer)) == set(ends)
    found = draw(model, tokenizer)
    assert found != freely
    assert all(set(reply[:-1]).isdisjoint(ends) for row in found for reply in row)
    assert until_end([7, 8, ends[1], 9], ends) == [7, 8, ends[1]] and until_end([7, 8], ends) == [7, 8]


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
    expected = draw(model, tokenizer)
    inner.generation_config = GenerationConfig(eos_token_id=2, **LEAKS)
    model.generation_config = inner.generation_config
    before = inner.generation_config.to_dict()
    assert draw(model, tokenizer) == expected
    assert inner.generation_config.to_dict() == model.generation_config.to_dict() == before


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


def test_sampling_that_was_killed_goes_on_with_the_same_draws(tokenizer, tmp_path, monkeypatch) -> None:
    model = tiny_llama(vocabulary=len(tokenizer))
    plain, calls = model.generate, []

    def dies_at(number: int):
        def generate(*args, **options):
            calls.append(number)
            if len(calls) == number:
                raise KeyboardInterrupt
            return plain(*args, **options)

        return generate

    options = {"count": 7, "sampling": replace(SAMPLING, batch_size=2)}
    whole = draw(model, tokenizer, **options)
    file = Unfinished(tmp_path / "cache" / "ab.unfinished", every=0)
    monkeypatch.setattr(model, "generate", dies_at(6))
    with pytest.raises(KeyboardInterrupt):
        draw(model, tokenizer, **options, unfinished=file)
    monkeypatch.setattr(model, "generate", plain)
    torch.manual_seed(99)
    assert len(file.load(torch.device("cpu"))) == 10, "five batches of two"
    assert draw(model, tokenizer, **options, unfinished=file) == whole
    file.remove()
    assert not file.file.exists() and draw(model, tokenizer, **options, unfinished=file) == whole
