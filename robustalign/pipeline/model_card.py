"""The card beside a trained policy: its method, its training data and its results under every target."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from robustalign.config import Config
from robustalign.run.folder import RunFolder
from robustalign.run.journal import read

SHOWN = ("nominal", "worst")  # targets, after which come those of the shift


def model_card(config: Config, folder: RunFolder, licence: str | None) -> str:
    """Markdown with the metadata block that model hubs read.

    Args:
        config: of the run.
        folder: its results and journal.
        licence: of the base model, where its folder tells one.
    """
    method = {key: value for key, value in config.method.items() if value is not None}
    trainer, name = config.trainer, config.label or str(method["name"])
    trained = f"{trainer.max_steps} steps" if trainer.epochs is None else f"{trainer.epochs:g} epochs in batches"
    settings = "\n".join(f"| {key} | {value} |" for key, value in method.items())
    return f"""{_metadata(config, licence)}
# {config.model.name} trained by {name}

Trained by robustalign on preferences of the shift `{config.shift.name}`, and tested on populations that it was not
trained on. Run `{folder.name}`, seed {config.seed}, {trained} of {trainer.batch_size} pairs, learning
rate {trainer.learning_rate:g}.

## Method

| key | value |
|---|---|
{settings}

## How it holds up

Held-out test prompts; {config.evaluation.confidence:.0%} intervals over prompts of this one run. *nominal* is the
population that labelled the training pairs, *worst* the least favourable of those tested.

{_robustness(folder)}

## Data

{_data(folder)}

## Base model

`{config.model.path}`, licence: {licence or "not told by its files; see its own card"}.

## Command

```
robustalign train {" ".join(_overrides(config))}
```

`robustalign export {folder.name}` wrote this folder; the run's `config.yaml` holds every key.
"""


def _metadata(config: Config, licence: str | None) -> str:
    """The block that model hubs read."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
base_model: {config.model.path}
license: {licence or "other"}
tags: [preference-optimization, distributionally-robust, robustalign]
---
"""


def _robustness(folder: RunFolder) -> str:
    table = pd.read_csv(folder.results / "targets.csv")
    table = table[(table["control"] == "policy") & (table["split"] == "test")]
    if table.empty:
        return "The test split was not evaluated."
    table = table[table["step"] == table["step"].max()]
    metrics = list(dict.fromkeys(table["metric"]))
    order = [*SHOWN, *(target for target in dict.fromkeys(table["target"]) if target not in SHOWN)]
    cells = {
        (row["target"], row["metric"]): f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        for row in table.to_dict("records")
    }
    lines = [f"| population | {' | '.join(metrics)} |", "|" + "---|" * (len(metrics) + 1)]
    for target in order:
        values = [cells.get((target, metric), "-") for metric in metrics]
        if any(cell != "-" for cell in values):
            lines.append(f"| {target} | {' | '.join(values)} |")
    return "\n".join(lines)


def _data(folder: RunFolder) -> str:
    rows = [record for record in read(folder.journal) if record["kind"] == "dataset"]
    lines = ["| data | rows | fingerprint |", "|---|---|---|"]
    distinct = dict.fromkeys((r["name"], r["rows"], r["fingerprint"]) for r in rows)
    return "\n".join([*lines, *(f"| {name} | {count} | `{fingerprint}` |" for name, count, fingerprint in distinct)])


def _overrides(config: Config) -> list[str]:
    """The overrides that matter most; the run's ``config.yaml`` has the whole config."""
    return [
        f"method={config.method['name']}",
        f"shift={config.shift.name}",
        f"model.path={config.model.path}",
        f"dataset={config.dataset.name}",
        f"seed={config.seed}",
    ]


def licence_of(folder: Path) -> str | None:
    """The licence that a checkpoint's own card names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:40]:
        if line.strip() == "---":
            return None
        key, _, value = line.partition(":")
        if key.strip() == "license":
            return value.strip() or None
    return None


def write_card(config: Config, folder: RunFolder, base: Path) -> None:
    """Write the card of a run's policy beside it; ``base``: the folder, or hub id, of what was trained."""
    card = model_card(config, folder, licence_of(base) if base.is_dir() else None)
    (folder.model / "README.md").write_text(card, encoding="utf-8")
