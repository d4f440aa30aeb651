"""Fine-tuning and sampling as runs of their own in MLflow: what each was made of, and which runs use it."""

from __future__ import annotations

import json
from pathlib import Path

from robustalign.cache import digest
from robustalign.pipeline import fine_tuned
from robustalign.pipeline.stages import Stages
from robustalign.run.identity import leaves
from robustalign.run.journal import Journal


def record_stages(stages: Stages, journal: Journal) -> dict[str, float]:
    """Record a run's fine-tuned model and sampled candidates. Returns the figures of the fine-tuning."""
    tuned = fine_tuned.figures(Path(stages.model_path))
    made = ("sft",) if stages.config.dataset.source == "preferences" else ("sft", "candidates")
    used = sorted({event.path for event in stages.cache.events if event.stage in made})
    for path in used:
        facts = json.loads((path / "key.json").read_text())
        key, stage = facts["key"], facts["stage"]
        if stage == "candidates" and "sft" in key["model"]:
            key["model"]["sft"] = digest(key["model"]["sft"])
        params = {name: str(value) for name, value in leaves(key)}
        values = {f"{stage}/seconds": facts["seconds"]} | (tuned if stage == "sft" else {})
        when = {"built": facts["built"], "seconds": facts["seconds"]}
        journal.stage(stage, path.name, **when, params=params, values=values, losses=fine_tuned.losses(path))
    if used:
        journal.tags({"robustalign.artefacts": ", ".join(f"{path.parent.name}/{path.name}" for path in used)})
    return tuned
