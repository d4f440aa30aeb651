"""Certificates as reports show them."""

from __future__ import annotations

import pandas as pd

from robustalign.report.certify import certificates, certified
from robustalign.report.measures import Measures
from robustalign.report.pictures import certificates as draw
from robustalign.report.settings import Setting, settings
from robustalign.report.style import Look
from tests.report.conftest import make
from tests.report.synthetic import Scene, records


def shown(setting: Setting) -> tuple[pd.DataFrame, set[str], set[str]]:
    """The table, what its short form is about, and the entries of the picture's legend."""
    measures = Measures(setting, draws=50)
    table = certificates(measures)
    figure = draw(table, measures, Look(setting))
    assert figure is not None
    entries = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    return table, set(certified(table, setting)["point"]), entries


def with_shrunk(sweep) -> None:
    """Also the certificates of halved margins, which the synthetic runs leave out."""
    for run in sweep.runs:
        path = run.folder.results / "certificates.csv"
        table = pd.read_csv(path)
        halved = table[table["control"] == "policy"].assign(control="shrink_0.5")
        pd.concat([table, halved]).to_csv(path, index=False)


def test_margins_made_smaller_are_dpos_where_dpo_was_run_and_left_out_elsewhere(tmp_path) -> None:
    sweep = make(tmp_path, ("dpo", "kldpo_t1"), (0, 1), scene=Scene(prompts=30))
    with_shrunk(sweep)
    (setting,) = settings(records(sweep))
    expected = {"dpo", "kldpo tau=1", "reference (ln 2)", "dpo's margins x 0.5"}
    _, rows, entries = shown(setting)
    assert rows == expected and entries == expected
    (without,) = settings([run for run in records(sweep) if run.label != "dpo"])
    _, rows, entries = shown(without)
    assert rows == entries == {"kldpo tau=1", "reference (ln 2)"}


def test_bands_of_a_loss_end_at_zero(tmp_path) -> None:
    """Two seeds far apart have intervals that would reach below 0."""
    sweep = make(tmp_path, ("dpo",), (0, 1), scene=Scene(prompts=30))
    for run, factor in zip(sweep.runs, (0.2, 3.0), strict=True):
        path = run.folder.results / "certificates.csv"
        table = pd.read_csv(path)
        table[["value", "low", "high"]] *= factor
        table.to_csv(path, index=False)
    (setting,) = settings(records(sweep))
    table, _, _ = shown(setting)
    curve = table[(table["target"] == "") & (table["control"] == "policy")]
    assert (curve["certificate_low"] == 0.0).all() and (curve["certificate_high"] > curve["certificate"]).all()
    assert (table["slack_low"].dropna() >= 0).all() and table["slack_low"].notna().any()


def test_the_slack_is_the_certificate_minus_the_loss_at_the_target(sweep) -> None:
    (setting,) = settings(records(sweep))
    table, _, _ = shown(setting)
    at_target = table[table["slack"].notna()]
    assert len(at_target) and set(at_target["control"]) == {"policy"}
    assert (at_target["slack"] >= 0).all()
    first = at_target.iloc[0]
    runs = [pd.read_csv(run.files / "results" / "certificates.csv") for run in setting.points[0].runs.values()]
    rows = pd.concat(runs).query(
        f"split == 'test' and control == 'policy' and target == '{first['target']}' and set == '{first['set']}'"
    )
    assert abs(first["slack"] - (rows["value"] - rows["realised"]).mean()) < 1e-9
