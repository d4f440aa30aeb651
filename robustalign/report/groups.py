"""What speaks for the groups that methods trained with, over the seeds of each point."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from robustalign.groups import Evidence
from robustalign.report.markup import in_markdown
from robustalign.report.settings import Point, Setting

FILE = "groups.json"  # in a run's results/


def paragraph(setting: Setting) -> str:
    """A line for each point whose runs found groups, as markdown; '' where none did."""
    lines = [line for point in setting.points if (line := _line(point))]
    return "\n".join(["", "**Groups of pairs**", "", *lines, ""]) + "\n" if lines else ""


def _line(point: Point) -> str:
    saved = [
        json.loads(path.read_text()) for run in point.runs.values() if (path := run.files / "results" / FILE).is_file()
    ]
    if not saved:
        return ""
    found = [Evidence.load(values["evidence"]) for values in saved]
    unused = sum(values["dismissed"] for values in saved)
    names = dict.fromkeys(name for evidence in found for name in evidence.names)
    shares = ", ".join(f"{in_markdown(name)} {_mean(_shares(found, name))}" for name in names)
    believed = sum(evidence.believable for evidence in found)
    parts = [f"reason to believe in them in {believed} of {len(found)} runs", f"shares {shares}"]
    gains = [evidence.gain for evidence in found]
    if np.isfinite(gains).all():
        parts.append(f"held-out log-likelihood {np.mean(gains):+.4f} nats a pair over one group")
    parts += [_agreement(found, column) for column in dict.fromkeys(a.column for e in found for a in e.agreement)]
    doubts = dict.fromkeys(doubt for evidence in found for doubt in evidence.doubts)
    parts += [f"doubt: {in_markdown(doubt)}" for doubt in doubts]
    if unused:
        parts.append(f"not used in {unused} runs (groups.require_evidence)")
    return f"- **{in_markdown(point.label)}**: {'; '.join(parts)}"


def _shares(found: list[Evidence], name: str) -> list[float]:
    return [share for evidence in found for n, share in zip(evidence.names, evidence.shares, strict=True) if n == name]


def _agreement(found: list[Evidence], column: str) -> str:
    rows: list[Any] = [a for evidence in found for a in evidence.agreement if a.column == column]
    said = f"adjusted Rand index {_mean([a.rand for a in rows])} with {in_markdown(column)}, which played no part"
    aucs = [a.auc for a in rows if np.isfinite(a.auc)]
    return f"{said}, AUC {_mean(aucs)}" if aucs else said


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f}"
