"""Trained policies as folders: written at once, loaded again, and merged with their base."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from robustalign.files import to_disk

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def save_trained(policy: PreTrainedModel, target: Path) -> None:
    """Save the trained policy (its adapters alone under LoRA) beside ``target`` and rename."""
    staging = target.with_name(target.name + ".writing")
    shutil.rmtree(staging, ignore_errors=True)
    policy.save_pretrained(staging)
    to_disk(staging)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(staging, target)


def load_trained(policy: PreTrainedModel, source: Path) -> None:
    """Put a saved policy's parameters into ``policy``."""
    if (source / ADAPTER).is_file():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(policy, load_file(source / ADAPTER))
        return
    trained = type(policy).from_pretrained(source, dtype=next(policy.parameters()).dtype)
    policy.load_state_dict(trained.state_dict())


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters of another checkpoint."""
    return (folder / ADAPTER_CONFIG).is_file()


def merge(source: Path, target: Path) -> None:
    """Write the checkpoint that a folder of adapters and its base make together into ``target``.

    The base is where ``adapter_config.json`` says; safetensors only, no remote code.
    """
    from peft import PeftModel

    settings = json.loads((source / ADAPTER_CONFIG).read_text())
    base = AutoModelForCausalLM.from_pretrained(
        settings["base_model_name_or_path"],
        revision=settings.get("revision"),
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
    )
    PeftModel.from_pretrained(base, source, use_safetensors=True).merge_and_unload().save_pretrained(target)
    for file in source.iterdir():
        if file.name not in (ADAPTER, ADAPTER_CONFIG) and not (target / file.name).exists():
            shutil.copy(file, target / file.name)
