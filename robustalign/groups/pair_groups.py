"""The groups of a run's training pairs, what weight they get, and what is shown of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from robustalign.groups.evidence import Evidence


@dataclass(frozen=True)
class PairGroups:
    """Memberships ``[N, K]`` of the pairs, rows summing to 1, with their evidence."""

    membership: np.ndarray
    evidence: Evidence
    dismissed: bool = False
    """Whether the groups that were found are left out for want of evidence: then K is 1."""

    def weight(self, mass: float) -> np.ndarray | None:
        """Importance weights ``[N]`` of mean 1 that give the last group ``mass`` of the total; None where that is
        impossible: one group, or nobody in the last."""
        return None if self.membership.shape[1] == 1 else weights_of_mass(self.membership[:, -1], mass)

    def metrics(self) -> dict[str, float]:
        """The evidence as numbers by name."""
        evidence = self.evidence
        metrics = {f"groups/share/{_plain(n)}": s for n, s in zip(evidence.names, evidence.shares, strict=True)}
        metrics |= {"groups/gain": evidence.gain, "groups/gain_low": evidence.low, "groups/gain_high": evidence.high}
        metrics |= {"groups/believable": float(evidence.believable), "groups/used": float(not self.dismissed)}
        metrics |= {f"groups/{name}": value for name, value in evidence.facts.items()}
        for a in evidence.agreement:
            values = {"rand": a.rand, "auc": a.auc, "precision": a.precision, "recall": a.recall}
            metrics |= {f"groups/agreement/{_plain(a.column)}/{name}": value for name, value in values.items()}
        return {name: float(value) for name, value in metrics.items() if np.isfinite(value)}

    def page(self, sample: pd.DataFrame) -> str:
        """Markdown: the sentence, the shares, what agrees with the groups, and pairs to read.

        ``sample``: columns group, prompt, chosen, rejected.
        """
        evidence = self.evidence
        lines = ["# Groups of pairs", "", evidence.sentence, ""]
        if self.dismissed:
            lines += ["They are not used (groups.require_evidence): the run was trained without groups.", ""]
        lines += ["| group | share |", "|---|---|"]
        lines += [f"| {n} | {s:.3f} |" for n, s in zip(evidence.names, evidence.shares, strict=True)]
        for a in evidence.agreement:
            lines += ["", f"With the column `{a.column}`, which played no part: adjusted Rand index {a.rand:.2f}"]
            if np.isfinite(a.auc):
                lines[-1] += (
                    f", AUC {a.auc:.3f}, precision {a.precision:.2f}, recall {a.recall:.2f} of its rarest value"
                )
        for name, part in sample.groupby("group", sort=False):
            lines += ["", f"## {name}", "", "| prompt | chosen | rejected |", "|---|---|---|"]
            lines += [f"| {_cell(r.prompt)} | {_cell(r.chosen)} | {_cell(r.rejected)} |" for r in part.itertuples()]
        return "\n".join(lines) + "\n"


def weights_of_mass(membership: np.ndarray, mass: float) -> np.ndarray | None:
    """Weights ``[N]`` of mean 1 that give a group of ``membership [N]`` ``mass`` of the total; None where it is all or
    nobody."""
    share = float(membership.mean())
    if not 0 < share < 1:
        return None
    return membership * mass / share + (1 - membership) * (1 - mass) / (1 - share)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
