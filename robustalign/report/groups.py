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
    evidences = [Evidence.load(values["evidence"]) for values in saved]
    unused = sum(values["dismissed"] for values in saved)
    names = dict.fromkeys(name for evidence in evidences for name in evidence.names)
    shares = ", ".join(f"{in_markdown(name)} {_mean(_shares(evidences, name))}" for name in names)
    believers = sum(evidence.believable for evidence in evidences)
    parts = [f"reason to believe in them in {believers} of {len(evidences)} runs", f"shares {shares}"]
    gains = [evidence.gain for evidence in evidences]
    if np.isfinite(gains).all():
        parts.append(f"held-out log-likelihood {np.mean(gains):+.4f} nats a pair over one group")
    parts += [
        _agreement(evidences, column) for column in dict.fromkeys(a.column for e in evidences for a in e.agreement)
    ]
    doubts = dict.fromkeys(doubt for evidence in evidences for doubt in evidence.doubts)
    parts += [f"doubt: {in_markdown(doubt)}" for doubt in doubts]
    if unused:
        parts.append(f"not used in {unused} runs (groups.require_evidence)")
    return f"- **{in_markdown(point.label)}**: {'; '.join(parts)}"


def _shares(evidences: list[Evidence], name: str) -> list[float]:
    return [
        share for evidence in evidences for n, share in zip(evidence.names, evidence.shares, strict=True) if n == name
    ]


def _agreement(evidences: list[Evidence], column: str) -> str:
    rows: list[Any] = [a for evidence in evidences for a in evidence.agreement if a.column == column]
    sentence = f"adjusted Rand index {_mean([a.rand for a in rows])} with {in_markdown(column)}, which played no part"
    aucs = [a.auc for a in rows if np.isfinite(a.auc)]
    return f"{sentence}, AUC {_mean(aucs)}" if aucs else sentence


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f}"
