"""Rows are packed only where that is the model's own computation, at every width and precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    Gemma2Config,
    GPTNeoConfig,
    LlamaConfig,
    MptConfig,
    Phi3Config,
)

from robustalign.config import ModelConfig
from robustalign.errors import ConfigError
from robustalign.policies import logprobs
from robustalign.policies.layout import Trust, reason_against, trust_of
from robustalign.policies.limits import check_limits
from robustalign.policies.load import asset_folder, load_model
from robustalign.policies.logprobs import Rows, score_completions, sequence_logps, takes_block_masks
from tests.conftest import tiny_gpt2, tiny_llama


def pair(prompt: int, reply: int, seed: int = 0) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 97, (n,), generator=draw).tolist() for n in (prompt, reply, reply)]
    return Rows.collate([ids[0]] * 2, ids[1:], 0, tree=[0, 0])


def alone(model, rows: Rows) -> torch.Tensor:
    """A plain forward of each row by itself."""
    found = []
    for ids, attention, completion in zip(rows.ids, rows.attention, rows.completion, strict=True):
        row = ids[attention]
        logs = model(input_ids=row[None]).logits[0].float().log_softmax(-1)
        places = completion[attention].nonzero()[:, 0]
        found.append(logs[places - 1, row[places]].sum())
    return torch.stack(found)


def neo(window: int) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 97, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "initializer_range": 0.4}
    config = GPTNeoConfig(**sizes, attention_types=[[["global", "local"], 1]], window_size=window)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def mpt(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    config = MptConfig(vocab_size=97, d_model=16, n_heads=2, n_layers=2, max_seq_len=256, initializer_range=0.4)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype).eval()


@pytest.mark.parametrize("model", [neo(32), mpt(torch.float32), mpt(torch.bfloat16)], ids=["neo", "mpt", "mpt bf16"])
@torch.no_grad()
def test_what_counts_places_along_the_row_is_not_packed(model) -> None:
    rows = pair(20, 30)
    assert not takes_block_masks(model, rows)
    tolerance = 1e-4 if model.dtype == torch.float32 else 1.0
    torch.testing.assert_close(sequence_logps(model, rows), alone(model, rows), rtol=0, atol=tolerance)


@torch.no_grad()
def test_a_limit_that_no_config_declares_is_found_at_the_width_where_it_begins(monkeypatch) -> None:
    """GPT-Neo with its declaration hidden: right below the window, refused beyond it, and never wrong."""
    model = neo(80)
    trust_of(model, "eager").limit = float("inf")
    assert takes_block_masks(model, pair(6, 8))
    assert not takes_block_masks(model, pair(40, 35))
    torch.testing.assert_close(sequence_logps(model, pair(40, 35)), alone(model, pair(40, 35)), rtol=0, atol=1e-4)
    assert takes_block_masks(model, pair(5, 9)), "what has been seen to hold still holds"


def test_a_width_is_compared_once(monkeypatch) -> None:
    model, asked = tiny_llama(), []
    right = logprobs._packs
    monkeypatch.setattr(logprobs, "_packs", lambda *given: asked.append(given[1].ids.shape) or right(*given))
    for lengths in ((10, 12), (8, 9), (10, 12), (20, 3), (20, 30), (20, 30), (10, 12)):
        assert takes_block_masks(model, pair(*lengths))
    assert len(asked) == 2


@torch.no_grad()
def test_a_row_that_shares_nothing_is_compared_beside_another() -> None:
    """Alone in its packed row it would lie as it does in a padded one, whatever the model counts."""
    torch.manual_seed(0)
    config = BartConfig(vocab_size=97, d_model=16, decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=32)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        weight.mul_(10 if weight.ndim > 1 else 1)
    rows = replace(pair(5, 4), tree=None)
    assert not takes_block_masks(model, rows)
    torch.testing.assert_close(sequence_logps(model, rows), alone(model, rows), rtol=1e-5, atol=1e-4)


def test_trust_grows_and_ends() -> None:
    trust = Trust()
    trust.learn(100, True)
    trust.learn(300, False)
    assert trust.known(80) and trust.known(300) and trust.known(400) and not trust.known(200)
    trust.learn(200, True)
    assert trust.width == 200 and trust.limit == 300


@pytest.mark.parametrize(
    ("config", "attention", "reason"),
    [
        (LlamaConfig(), "sdpa", None),
        (LlamaConfig(), "flash_attention_2", "flash_attention_2"),
        (GPTNeoConfig(), "eager", "window_size"),
        (MptConfig(), "eager", "ALiBi"),
        (Gemma2Config(), "eager", "sliding"),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_reasons(config, attention: str, reason: str | None) -> None:
    found = reason_against(config, attention)
    assert found is None if reason is None else reason in found


@torch.no_grad()
def test_many_replies_of_one_prompt_are_dealt_to_trees_of_bounded_width(monkeypatch) -> None:
    model, widths = tiny_gpt2(), []
    pack = logprobs.pack
    monkeypatch.setattr(logprobs, "pack", lambda *a: widths.append((p := pack(*a)).source.shape[1]) or p)
    draw = torch.Generator().manual_seed(0)
    replies = [torch.randint(3, 97, (1 + i % 12,), generator=draw).tolist() for i in range(200)]
    score_completions(model, [[5, 6, 7]] * 200, replies, pad=0, batch_size=256)  # compares
    widths.clear()
    found = score_completions(model, [[5, 6, 7]] * 200, replies, pad=0, batch_size=256)
    assert max(widths) <= logprobs.TREE_WIDTH
    expected = torch.cat([alone(model, Rows.collate([[5, 6, 7]], [reply], 0)) for reply in replies])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


DYNAMIC = LlamaConfig(
    max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
)
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
PHI = {"hidden_size": 32, "num_attention_heads": 4, "original_max_position_embeddings": 64, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("declared", "settings", "tokens", "key"),
    [
        (tiny_gpt2().config, {"max_length": 65}, None, "model.max_length"),
        (tiny_gpt2().config, {"max_length": 64}, None, None),
        (LlamaConfig(max_position_embeddings=64), {"max_length": 4096}, None, None),
        (DYNAMIC, {"max_length": 65}, None, "model.max_length"),
        (Phi3Config(**PHI, rope_parameters=LONGROPE), {"max_length": 128}, None, "model.max_length"),
        (Gemma2Config(), {"attention": "sdpa"}, None, "model.attention"),
        (Gemma2Config(), {"attention": "eager"}, None, None),
        (LlamaConfig(vocab_size=100), {}, 101, "model.path"),
        (LlamaConfig(vocab_size=100), {}, 100, None),
    ],
    ids=["learnt positions", "all of them", "rotary", "dynamic", "longrope",
         "soft-cap", "soft-cap kept", "more ids", "as many ids"],
)  # fmt: skip
def test_what_an_architecture_cannot_do_is_refused_by_its_key(declared, settings, tokens, key) -> None:
    config = ModelConfig(name="m", path="p", **settings)
    if key is None:
        check_limits(declared, config, tokens)
        return
    with pytest.raises(ConfigError, match=rf"^{key}: "):
        check_limits(declared, config, tokens)


def test_the_shipped_model_is_packed_whatever_rows_come_first() -> None:
    """Rounding alone must not decide it: a run that was killed would then go on with other numbers."""
    config = ModelConfig(name="tiny", path="asset:chitchat_tiny")
    model = load_model(asset_folder("chitchat_tiny"), config)
    draw = torch.Generator().manual_seed(0)
    for length in range(4, 16):
        ids = [torch.randint(10, 4000, (n,), generator=draw).tolist() for n in (length, length, 20 - length)]
        rows = Rows.collate([ids[0]] * 2, ids[1:], 0, tree=[0, 0])
        assert logprobs._packs(model, rows, copies=3)
