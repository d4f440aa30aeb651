"""Exports a trained policy as a folder that can be used without this package."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from robustalign.errors import ConfigError
from robustalign.files import to_disk
from robustalign.policies.load import run_model
from robustalign.policies.save import is_adapter, merge


def export(identity: str, output: Path, target: Path | None = None, merged: bool = False) -> Path:
    """Copy a run's policy, tokenizer and card to ``target``, written at once; returns where it is.

    Args:
        identity: of the run, or the start of it.
        output: ``paths.output`` of the run.
        target: by default ``exports/IDENTITY`` below ``output``.
        merged: put adapters into their base; nothing changes for a policy without any.

    Raises:
        ConfigError: no such run, a run without a policy, or a target that is there already.
    """
    model = run_model(identity, output)
    target = (target or output / "exports" / model.parent.name).expanduser().absolute()
    if target.exists():
        raise ConfigError("--to", f"{target} exists; name another folder or remove it")
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    staging.mkdir(parents=True)
    try:
        if merged and is_adapter(model):
            merge(model, staging)
        else:
            shutil.copytree(model, staging, dirs_exist_ok=True)
        (staging / "trained").unlink(missing_ok=True)
        to_disk(staging)
        os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target
