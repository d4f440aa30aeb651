"""WDPO's gradients on every path a model may take: attention kernels, checkpointing, adapters, tying, autocast."""

from __future__ import annotations

import peft
import pytest
import torch

from robustalign.data.pairs import PairCollator
from robustalign.errors import ConfigError
from robustalign.pipeline.checks import check_config
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step
from tests.conftest import compose_config, tiny_gpt2, tiny_llama
from tests.training.test_step import WDPO, examples, gradient

DIFFERENCES = ("forward", "central")
FORMS = ("moved", *DIFFERENCES, "exact")


def named_gradients(model, method: dict) -> dict[str, torch.Tensor]:
    gradient(model, method, examples(), [7, 5])
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(found: dict, expected: dict, rtol: float = 1e-8) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=rtol * float(value.abs().max()), msg=name)


@pytest.mark.parametrize(
    ("make", "form", "rtol"),
    [
        *(
            (tiny_gpt2, form, 1e-6 if form in DIFFERENCES else 1e-9) for form in FORMS
        ),  # their step is 1e-6 of the inputs
        *((tiny_llama, form, 1e-5) for form in ("moved", "exact")),  # norms and eager attention compute in fp32
    ],
)
def test_sdpa_equals_eager(make, form: str, rtol: float) -> None:
    models = [make(torch.float64, attn_implementation=kind) for kind in ("eager", "sdpa")]
    eager, sdpa = (named_gradients(model, WDPO | {"gradient": form}) for model in models)
    close(sdpa, eager, rtol)


@pytest.mark.parametrize(
    ("form", "attention"),
    [(form, attention) for form in FORMS for attention in ("eager", "sdpa") if (form, attention) != ("exact", "sdpa")],
)
def test_gradient_checkpointing_changes_nothing(form: str, attention: str) -> None:
    plain, saving = (tiny_llama(torch.float64, attn_implementation=attention).train() for _ in range(2))
    saving.gradient_checkpointing_enable({"use_reentrant": False})
    method = WDPO | {"gradient": form}
    close(named_gradients(saving, method), named_gradients(plain, method), 1e-6)


@pytest.mark.parametrize(
    "overrides",
    [("model.attention=flash_attention_2",), ("model.gradient_checkpointing=true",)],
    ids=["no second derivative", "recomputed on another path"],
)
def test_a_double_backward_that_would_go_wrong_is_refused(overrides: tuple[str, ...]) -> None:
    refused = compose_config("method=wdpo_paper", *overrides)
    with pytest.raises(ConfigError, match=r"method\.gradient.*model\.attention=eager"):
        check_config(refused)
    check_config(compose_config("method=wdpo_paper", *overrides, "model.attention=eager"))
    check_config(compose_config("method=wdpo", *overrides))


@pytest.mark.parametrize("form", ["moved", "exact"])
def test_adapters_get_the_gradient_of_their_product(form: str) -> None:
    """At B = 0 the gradient of B is that of the adapted weight times A transposed, scaled."""
    whole, base = (tiny_llama(torch.float64) for _ in range(2))
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"], lora_dropout=0.0)
    adapted = peft.get_peft_model(base, settings).to(torch.float64)
    full, low = (named_gradients(model, WDPO | {"gradient": form}) for model in (whole, adapted))
    b_gradients = {name: value for name, value in low.items() if "lora_B" in name}
    assert len(b_gradients) == 4
    for name, found in b_gradients.items():
        layer = name.removeprefix("base_model.model.").partition(".lora_B")[0]
        a = adapted.get_parameter(name.replace("lora_B", "lora_A"))
        torch.testing.assert_close(found, 2 * full[f"{layer}.weight"] @ a.T, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("form", ["moved", "exact"])
def test_a_tied_table_gets_both_its_gradients(form: str) -> None:
    """As embedding at the moved inputs and as output layer: the sum of those of an untied twin."""
    tied, untied = tiny_llama(torch.float64), tiny_llama(torch.float64, tie_word_embeddings=False)
    untied.load_state_dict(tied.state_dict())
    with torch.no_grad():
        untied.lm_head.weight.copy_(tied.lm_head.weight)
    one, two = (named_gradients(model, WDPO | {"gradient": form}) for model in (tied, untied))
    both = two["model.embed_tokens.weight"] + two["lm_head.weight"]
    torch.testing.assert_close(one["model.embed_tokens.weight"], both, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("form", "cosine"), [("moved", 0.98), ("exact", 0.98), ("central", 0.9)])
def test_autocast_keeps_the_direction(form: str, cosine: float) -> None:
    """bfloat16 keeps 8 bits: a few per cent of rounding in the gradient, more in a difference of two."""
    model, batch = tiny_llama(), PairCollator(pad=0)(examples(24))
    step = objective_step(build_objective(WDPO | {"gradient": form}))

    def flat(autocast: bool) -> torch.Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss, _ = step.loss(model, batch, step.plan(model, [batch]), 0)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    full, half = flat(False), flat(True)
    assert float(torch.cosine_similarity(full, half, dim=0)) > cosine
