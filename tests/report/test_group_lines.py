"""What a report says of groups: over seeds, from the files of the runs."""

from __future__ import annotations

import json
from dataclasses import asdict

from robustalign.groups import Evidence
from robustalign.groups.evidence import Agreement
from robustalign.report import groups
from robustalign.report.settings import settings
from tests.report.conftest import make
from tests.report.synthetic import records


def evidence(gain: float, auc: float, doubts: tuple[str, ...] = ()) -> Evidence:
    agreement = (Agreement("population", 0.5, auc, 0.9, 0.6),)
    return Evidence(("common", "overlooked"), (0.9, 0.1), gain, gain - 0.01, gain + 0.01, doubts, agreement)


def test_a_line_for_each_point_with_groups(tmp_path) -> None:
    sweep = make(tmp_path, ("dpo", "kldpo_t0.5"), (0, 1))
    (setting,) = settings(records(sweep))
    assert groups.paragraph(setting) == ""
    runs = next(point for point in setting.points if point.label == "kldpo tau=0.5").runs
    for seed, (gain, auc, doubts) in {0: (0.02, 0.9, ()), 1: (0.04, 0.8, ("flipped labels",))}.items():
        saved = {"dismissed": seed == 1, "evidence": asdict(evidence(gain, auc, doubts))}
        (runs[seed].files / "results" / "groups.json").write_text(json.dumps(saved))
    assert groups.paragraph(setting) == (
        "\n**Groups of pairs**\n\n- **kldpo tau=0.5**: reason to believe in them in 1 of 2 runs; shares common 0.900, "
        "overlooked 0.100; held-out log-likelihood +0.0300 nats a pair over one group; adjusted Rand index 0.500 with "
        "population, which played no part, AUC 0.850; doubt: flipped labels; not used in 1 runs "
        "(groups.require_evidence)\n\n"
    )
