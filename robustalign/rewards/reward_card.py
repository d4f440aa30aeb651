"""What stands beside a trained reward model: its data, its recipe and its held-out figures."""

from __future__ import annotations

from collections.abc import Mapping

from robustalign.rewards.training import Examples, Recipe, Trained

Figures = Mapping[str, Mapping[str, float]]


def table(figures: Figures) -> str:
    """Held-out figures by label, as markdown."""
    keys = list(dict.fromkeys(key for row in figures.values() for key in row))
    lines = ["| label | " + " | ".join(keys) + " |", "|" + "---|" * (len(keys) + 1)]
    cells = {name: [f"{row[key]:.3f}" if key in row else "-" for key in keys] for name, row in figures.items()}
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(row) + " |" for name, row in cells.items())])


def card(
    recipe: Recipe,
    parts: Mapping[str, Examples],
    trained: Trained,
    figures: Figures,
    data: str | None,
    licence: str | None,
) -> str:
    """Markdown with the metadata block that model hubs read; ``data`` and ``licence`` of the texts."""
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in parts.items())
    joined = f"Up to {recipe.join} texts joined, with the union of their labels. " if recipe.join > 1 else ""
    return f"""---
library_name: transformers
pipeline_tag: text-classification
license: {licence or "other"}
---

# Reward model: {", ".join(recipe.labels) or "the better of two"}

Trained by `robustalign reward` ({recipe.kind}, base {recipe.base}, learning rate {recipe.learning_rate:g}, seed
{recipe.seed}) on {sizes} texts. {joined}Data: {data or "not named"}.
Epoch {trained.epoch} of {recipe.epochs} by validation loss.

Held-out test texts:

{table(figures)}
"""
