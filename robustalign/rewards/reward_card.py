"""What stands beside a trained reward model: its data, its recipe, its command and its held-out figures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from robustalign.rewards.held_out import Figure, Figures
from robustalign.rewards.training import Examples, Recipe, Trained


def table(figures: Figures) -> str:
    """Figures by label with their intervals, as markdown."""
    keys = list(dict.fromkeys(key for row in figures.values() for key in row))
    lines = ["| label | " + " | ".join(keys) + " |", "|" + "---|" * (len(keys) + 1)]
    cells = {name: [_cell(row[key]) if key in row else "-" for key in keys] for name, row in figures.items()}
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(row) + " |" for name, row in cells.items())])


def _cell(figure: Figure) -> str:
    interval = "" if math.isnan(figure.low) else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{interval}"


def card(
    recipe: Recipe,
    parts: Mapping[str, Examples],
    trained: Trained,
    tables: Mapping[str, Figures],
    *,
    data: str | None = None,
    licence: str | None = None,
    groups: Mapping[str, set[str]] | None = None,
    command: str | None = None,
) -> str:
    """Markdown with the metadata block that model hubs read.

    Args:
        recipe: how it was trained.
        parts: the examples of each split.
        trained: what came out.
        tables: held-out figures by what they are of.
        data: name and source of the texts.
        licence: of the texts.
        groups: the labels that make up each label.
        command: that trains it again.
    """
    sizes = ", ".join(f"{len(part):,} {split}" for split, part in parts.items())
    joined = f"Up to {recipe.join} texts joined, with the union of their labels. " if recipe.join > 1 else ""
    lines = [f"- {name}: {', '.join(sorted(members))}" for name, members in (groups or {}).items()]
    labels = "\n".join(["", "Labels, and those of the data that each is any of:", "", *lines, ""]) if lines else ""
    again = f"\n```\n{command}\n```\n" if command else ""
    sections = "\n".join(f"{title}:\n\n{table(figures)}\n" for title, figures in tables.items())
    return f"""---
library_name: transformers
pipeline_tag: text-classification
license: {licence or "other"}
---

# Reward model: {", ".join(recipe.labels) or "the better of two"}

Trained by `robustalign reward` ({recipe.kind}, base {recipe.base}, learning rate {recipe.learning_rate:g}, seed
{recipe.seed}) on {sizes} texts. {joined}Data: {data or "not named"}.
Epoch {trained.epoch} of {recipe.epochs} by validation loss; {trained.model.num_parameters():,} parameters.
{labels}{again}
{sections}"""
