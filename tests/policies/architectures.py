"""Small random models of every causal type that transformers registers, and what holds of each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from robustalign.data.pairs import PairCollator
from robustalign.errors import ConfigError
from robustalign.policies.layout import reason_against
from robustalign.policies.load import check_causal, switch_off_noise
from robustalign.policies.logprobs import sequence_logps, takes_block_masks
from robustalign.policies.packing import Rows
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step

POSITIONS = 64
SMALL = {
    97: ("vocab_size",),
    32: ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "word_embed_proj_dim", "lru_width", "embedding_size"),
    48: ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "decoder_ffn_dim", "encoder_ffn_dim"),
    16: ("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size", "mamba_d_head",
         "linear_key_head_dim", "linear_value_head_dim", "attention_hidden_size_per_head"),
    2: ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers", "encoder_layers", "num_kv_heads",
        "num_key_value_heads", "num_experts_per_tok", "moe_topk", "n_group", "topk_group", "linear_num_key_heads"),
    4: ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "encoder_attention_heads", "num_experts",
        "num_local_experts", "n_routed_experts", "qk_rope_head_dim", "linear_num_value_heads", "mamba_n_heads",
        "mamba_num_heads", "mamba_d_state", "ssm_state_size", "state_size", "num_heads"),
    8: ("head_dim", "sliding_window", "attention_window_size", "window_size", "attention_chunk_size", "q_lora_rank",
        "kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "rotary_dim", "mamba_head_dim", "chunk_size",
        "mamba_chunk_size", "local_attention_window", "time_step_rank"),
    POSITIONS: ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length"),
    1: ("mamba_n_groups", "n_groups", "first_k_dense_replace", "n_shared_experts", "bos_token_id"),
}  # fmt: skip
SIZES = {name: size for size, names in SMALL.items() for name in names} | {"pad_token_id": 0, "eos_token_id": 2}
PARTICULAR = {"gpt_neo": {"attention_types": [[["global", "local"], 1]]}}
LARGEST = 30_000_000
WDPO = {"set": "wasserstein", "radius": 0.05}
METHODS: dict[str, dict[str, Any]] = {
    "dpo": {"set": "nominal"},
    "kldpo": {"set": "kl", "temperature": 0.5},
    "wdpo moved": WDPO | {"gradient": "moved"},
    "wdpo exact": WDPO | {"gradient": "exact"},
}
CUTS = ((4,), (2, 2), (1, 3))


@dataclass(frozen=True)
class Finding:
    """What was seen of a type. ``problem``: why it could not be tried, or where it is wrong."""

    kind: str
    packed: bool | None = None
    why: str = ""
    methods: tuple[str, ...] = ()
    lora: bool = False
    note: str = ""
    problem: str = ""


def types() -> list[str]:
    """Every causal model type that transformers registers."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def small_config(kind: str) -> PretrainedConfig:
    """The type's default config with small sizes."""
    default = CONFIG_MAPPING[kind]()
    changes: dict[str, Any] = _shrunk(default) | PARTICULAR.get(kind, {})
    if hasattr(default, "is_decoder"):
        changes["is_decoder"] = True
    text = default.get_text_config()
    if text is not default:
        place = next(name for name, value in vars(default).items() if value is text)
        changes[place] = text.to_dict() | _shrunk(text)
        changes[place].pop("layer_types", None)
    return CONFIG_MAPPING[kind](**changes)


def _shrunk(config: PretrainedConfig) -> dict[str, Any]:
    known = vars(config) | {name: getattr(config, name) for name in config.attribute_map if hasattr(config, name)}
    return {name: size for name, size in SIZES.items() if isinstance(known.get(name), int) or name.endswith("token_id")}


def build(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A random model whose attention matters: every weight matrix with a standard deviation of .2 at least."""
    config = small_config(kind)
    attention = "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else "sdpa"
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size / 1e6:.0f} M parameters at the smallest sizes known here")
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    except ValueError:  # a type without sdpa
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and name.endswith("weight") and 0 < float(weight.std()) < 0.2:
                weight.mul_(0.2 / weight.std())
    switch_off_noise(model)
    return model.to(dtype).eval()


def pair(prompt: int, replies: tuple[int, int], share: bool) -> Rows:
    """Two rows of random tokens with one prompt."""
    draw = torch.Generator().manual_seed(prompt)
    first, *others = (torch.randint(3, 90, (n,), generator=draw).tolist() for n in (prompt, *replies))
    return Rows.collate([first] * 2, others, 0, tree=[0, 0] if share else None)


def alone(model: nn.Module, rows: Rows) -> Tensor:
    """Log-probabilities ``[R]`` by a plain forward of each row by itself."""
    found = []
    for ids, attention, completion in zip(rows.ids, rows.attention, rows.completion, strict=True):
        row, places = ids[attention], completion[attention].nonzero()[:, 0]
        logs = model(input_ids=row[None], use_cache=False).logits[0].float().log_softmax(-1)
        found.append(logs[places - 1, row[places]].sum())
    return torch.stack(found)


def gradient(model: nn.Module, logps: Tensor) -> Tensor:
    model.zero_grad()
    (logps * torch.tensor([1.0, -0.7])).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


SHAPES = ((5, (4, 3)), (14, (21, 30)))
"""Rows within every window and block of the small configs, and rows beyond them; packed, these exceed POSITIONS."""


def errors(model: nn.Module, gradients: bool) -> Iterator[tuple[str, float]]:
    """How far ours are from a plain forward, relative: log-probabilities, and parameter gradients where asked."""
    for prompt, replies in SHAPES:
        for share in (True, False):
            rows = pair(prompt, replies, share)
            label = f"{prompt}+{replies}{' shared' if share else ''}"
            expected, ours = alone(model, rows), sequence_logps(model, rows)
            yield f"log-probabilities of {label}", float((ours - expected).abs().max() / expected.abs().max())
            if gradients:
                right, found = gradient(model, expected), gradient(model, ours)
                yield f"gradient of {label}", float((found - right).norm() / right.norm())


def methods_over_cuts(model: nn.Module) -> tuple[str, ...]:
    """The methods whose gradient is finite and the same however four pairs are cut into micro-batches."""
    same = {"prompt": [1, 5, 7], "rejected": [11, 2], "reference": (-9.0, -8.0), "gap": 1.0}
    rows = [same | {"row": i, "prompt": [1, 5 + i, 7], "chosen": [8 + i, 9, 13 - i, 2][i % 2 :]} for i in range(4)]
    works = []
    for name, method in METHODS.items():
        try:
            whole, *parts = (step_gradient(model, method, rows, cut) for cut in CUTS)
        except (RuntimeError, NotImplementedError, TypeError):
            continue
        if whole.isfinite().all() and all((part - whole).norm() < 2e-3 * whole.norm() for part in parts):
            works.append(name)
    return tuple(works)


def step_gradient(model: nn.Module, method: dict[str, Any], rows: list[dict], cut: tuple[int, ...]) -> Tensor:
    """The parameter gradient of one optimiser step over micro-batches of these sizes, flat."""
    step, left = objective_step(build_objective({"name": "m", "loss": "sigmoid", "beta": 0.3} | method)), iter(rows)
    batches = [PairCollator(pad=0)([next(left) for _ in range(size)]) for size in cut]
    model.zero_grad()
    plan = step.plan(model, batches)
    for index, batch in enumerate(batches):
        step.loss(model, batch, plan, index)[0].backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@torch.no_grad()
def takes_adapters(model: nn.Module) -> bool:
    """Whether fresh adapters on all linear layers change nothing, as they must."""
    rows = pair(5, (4, 3), True)
    before = sequence_logps(model, rows)
    try:
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        return bool((sequence_logps(adapted, rows) - before).abs().max() < 1e-3)
    except (ValueError, RuntimeError, TypeError, AttributeError):
        return False


@torch.no_grad()
def silent(model: nn.Module) -> bool:
    """Whether training mode computes what evaluation computes."""
    rows = pair(5, (4, 3), True)
    still, training = sequence_logps(model.eval(), rows), sequence_logps(model.train(), rows)
    model.eval()
    return bool((still - training).abs().max() <= 1e-4 * still.abs().max())


def look(kind: str) -> Finding:
    """Try a type: what can be built is compared with plain forwards in fp32 and bf16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = build(kind)
            with torch.no_grad():
                plain = alone(model, pair(5, (4, 3), True))
            check_causal(model)
        except ConfigError as error:
            return Finding(kind, problem=f"refused: {error.problem}")
        except Exception as error:  # whatever a config of a stranger raises
            return Finding(kind, problem=f"not built: {type(error).__name__}: {' '.join(str(error).split())[:90]}")
        if not bool(torch.isfinite(plain).all()):
            return Finding(kind, problem="not built: random weights give no finite log-probabilities")
        return _look(kind, model)


def _look(kind: str, model: nn.Module) -> Finding:
    low, halves = build(kind, torch.bfloat16), True
    try:
        with torch.no_grad():
            alone(low, pair(5, (4, 3), True))
    except RuntimeError:  # its own forward does not compute in bf16
        halves = False
    try:
        wrong = [f"{what} off by {error:.1e}" for what, error in errors(model, gradients=True) if not error < 2e-3]
        packed = takes_block_masks(model, pair(*SHAPES[1], True))
        with torch.no_grad():
            shapes = errors(low, False) if halves else ()
            wrong += [f"bf16 {what} off by {error:.1e}" for what, error in shapes if not error < 0.05]
    except Exception as error:
        return Finding(kind, problem=f"stops: {type(error).__name__}: {' '.join(str(error).split())[:90]}")
    return Finding(
        kind,
        packed=packed,
        why="" if packed else reason_against(model.config, model.config._attn_implementation) or "by comparison",
        methods=methods_over_cuts(model),
        note=", ".join(
            ["random in training: refused at the first step"] * (not silent(model)) + ["no bf16"] * (not halves)
        ),
        lora=takes_adapters(model),
        problem="" if not wrong else f"wrong: {wrong[0]}",
    )


def table(findings: list[Finding]) -> str:
    """The page of the docs."""
    tried = [finding for finding in findings if not finding.problem]
    lines = [
        "# Architectures",
        "",
        "```sh",
        "python -m pytest -m slow tests/policies/test_architectures.py   # writes this page",
        "```",
        "",
        f"Every causal type that transformers registers, at small random weights: of {len(findings)} types, "
        f"{len(tried)} were built and give the",
        "log-probabilities and parameter gradients of a plain forward of each row alone, in fp32 and bf16, for rows",
        "shorter and longer than every window, block and chunk of their config. *Packed* types compute a prompt that",
        "two rows share once, and nothing for padding; the others run over padded rows. *Over cuts*: the methods among",
        f"{', '.join(METHODS)} whose gradient is the same for four pairs at once, as two and two, and as one",
        "and three; LoRA: fresh adapters on all linear layers leave the numbers as they are.",
        "",
        "| type | rows | over cuts | LoRA | note |",
        "|---|---|---|---|---|",
    ]
    for one in tried:
        note = one.note or one.why
        rows = "packed" if one.packed else "padded"
        cuts = "all" if len(one.methods) == len(METHODS) else ", ".join(one.methods) or "none"
        lines.append(f"| {one.kind} | {rows} | {cuts} | {'yes' if one.lora else 'no'} | {note} |")
    lines += ["", "Not tried, or not right:", "", "| type | why |", "|---|---|"]
    lines += [f"| {one.kind} | {one.problem.replace('|', '/')} |" for one in findings if one.problem]
    return "\n".join(lines) + "\n"
