"""Comparisons where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from robustalign.evaluation.controls import REFERENCE, shrunk
from robustalign.evaluation.metrics import METRICS
from robustalign.report.choose import RULES, choose, leave_one_out, nominal_rule
from robustalign.report.compare import Comparison
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import settings
from robustalign.report.summary import summary, verdict
from robustalign.report.tables import claims_of, claims_table, main_table, results, runs_against_runs
from tests.report.conftest import make
from tests.report.synthetic import TRUTH, Scene, records

REWARD, ACCURACY, LOSS = (METRICS[name] for name in ("reward", "accuracy", "loss"))


def test_values_are_those_of_the_runs(comparison):
    """Recomputed from per-prompt results: the mean over seeds of what each run's table says."""
    for point in comparison.setting.points:
        for metric in (REWARD, ACCURACY, LOSS):
            values = comparison.values(Policy(point.label), metric)
            for seed, column in zip(point.seeds, range(len(point.seeds)), strict=True):
                table = point.runs[seed].targets.query("control == 'policy' and split == 'test' and step == 80")
                told = table[table["metric"] == metric.name].set_index("target")["value"]
                mine = {target: values.of(target)[0, column] for target in values.targets}
                assert mine == pytest.approx(told.to_dict(), abs=1e-5)


def test_differences_hold_the_truth(comparison):
    for label, name in (("kldpo tau=0.5", "kldpo_t0.5"), ("wdpo r=0.03", "wdpo_r0.03"), ("oracle", "oracle")):
        found = comparison.difference(Policy(label), Policy("dpo"), REWARD, "joy_1.0")
        assert found.low <= TRUTH[name][1] - TRUTH["dpo"][1] <= found.high


def test_pairing_makes_intervals_narrow(comparison):
    ours, dpo = comparison.paired([Policy("kldpo tau=0.5"), Policy("dpo")], REWARD)
    alone, difference = ours.of("worst"), ours.of("worst") - dpo.of("worst")
    assert difference.mean(1).std() < 0.8 * alone.mean(1).std()


def test_a_clear_gain_is_one(comparison):
    claim = comparison.claim(comparison.setting.point("oracle"), REWARD)
    assert claim.robust and claim.worst.sign == 1
    assert claim.gap_closed.value == pytest.approx(1.0)


def test_the_same_thing_is_a_null_result(tmp_path):
    """A method that is dpo in disguise."""
    sweep = make(tmp_path, ("dpo", "wdpo_r0.03"), (0, 1, 2, 3), scene=Scene(prompts=150))
    (setting,) = settings(records(sweep))
    comparison = Comparison(Measures(setting, draws=300))
    mine = [comparison.claim(setting.point("wdpo r=0.03"), metric) for metric in comparison.measures.metrics()]
    assert not any(claim.robust for claim in mine)


def test_a_smaller_step_is_not_robust(comparison):
    """dpo along its own steps, and its shrunk margins, never lie beyond themselves."""
    for policy in [*comparison.shrinkage(), *comparison.step_curves()[0]]:
        for metric in (REWARD, LOSS):
            assert comparison.beyond(policy, [*comparison.step_curves(), comparison.shrinkage()], metric).sign <= 0


def test_a_shrunk_policy_would_look_flatter(comparison):
    """Why the control is needed: halved margins have a better worst loss over nominal loss ratio, yet gain nothing."""
    half = Policy("dpo", shrunk(0.5))
    ratio = [comparison.values(p, REWARD).estimate("worst").value for p in (half, Policy("dpo"))]
    assert ratio[0] < ratio[1]
    assert comparison.beyond(half, [comparison.shrinkage()], REWARD).value <= 1e-9


def test_tuned_dpo_is_chosen_on_validation_alone(comparison):
    tuned = comparison.tuned(REWARD, "worst")
    every = [policy for curve in comparison.step_curves() for policy in curve if policy.control != REFERENCE]
    scores = [comparison.values(p, REWARD, "validation").estimate("worst").value for p in every]
    assert tuned == every[int(np.argmax(scores))]


def test_probability_and_iqm(comparison):
    table = runs_against_runs(comparison).set_index(["label", "metric"])
    assert table.loc[("dpo", "reward"), "improvement"] == 0.5
    assert table.loc[("oracle", "reward"), "improvement"] > 0.8


def test_tables_have_intervals_and_n(comparison):
    long = results(comparison.measures, comparison, ["test"])
    assert set(long["seeds"]) == {3} and set(long["prompts"]) == {150}
    assert long[["low", "high"]].notna().all(axis=None)
    dpo = long.query("label == 'dpo' and control == 'policy' and step == 80")
    assert (dpo["difference"] == 0).all()
    short = main_table(comparison.measures, comparison, REWARD)
    assert short["point"][0] == "dpo" and "worst - dpo" in short
    assert {"shrinkage", "steps", "matched_kl", "gap_closed"} <= set(claims_table(claims_of(comparison)))


def test_words_say_what_was_found(comparison):
    text = summary(comparison.measures, comparison, claims_of(comparison))
    assert "3 seeds x 150 test prompts" in text and "fewer than 5 seeds" in text
    assert verdict([]) == "a null result"


def test_the_nominal_rule_keeps_the_nominal_value(comparison):
    candidates = [comparison.dpo, *comparison.setting.families()["kldpo"]]
    chosen, _ = nominal_rule(comparison, candidates, REWARD, tolerance=10.0)
    assert chosen.label == "kldpo tau=0.5"  # the strongest, when anything goes
    chosen, _ = nominal_rule(comparison, candidates, REWARD, tolerance=0.0)
    dpo = comparison.values(Policy("dpo"), REWARD, "validation").estimate("nominal").value
    assert comparison.values(Policy(chosen.label), REWARD, "validation").estimate("nominal").value >= dpo


def test_the_tolerance_of_the_nominal_rule_is_a_share_of_dpos_value(comparison):
    """A candidate whose nominal value is short of dpo's by a known share passes just above it, and not just below."""
    candidates = [comparison.dpo, comparison.setting.point("dpo lr=2.5e-4")]
    dpo, slow = (comparison.values(Policy(p.label), REWARD, "validation").mean("nominal") for p in candidates)
    share = (dpo - slow) / dpo
    assert dpo > 1.2 and share > 0  # else a share and a number would be hard to tell apart
    for tolerance, label in ((1.01 * share, "dpo lr=2.5e-4"), (0.99 * share, "dpo")):
        chosen, _ = nominal_rule(comparison, candidates, REWARD, tolerance)
        assert chosen.label == label


def test_leave_one_out_takes_the_best_over_the_others(comparison):
    chosen, why = leave_one_out(comparison, [comparison.dpo, comparison.setting.point("oracle")], REWARD)
    assert chosen.label == "oracle" and "10 of 10" in why


def test_every_rule_answers_for_every_method(comparison):
    made = choose(comparison, [REWARD, LOSS])
    assert {(c.method, c.rule) for c in made} == {(m, r) for m in ("kldpo", "wdpo") for r in RULES}
    assert all(c.regret.value >= 0 for c in made if c.chosen is not None)
    weak = next(c for c in made if (c.method, c.rule) == ("kldpo", "confidence"))
    assert weak.chosen == "dpo"  # 5000 pairs ask for far less than these temperatures


def test_the_ceiling_is_the_oracle_that_is_best_at_the_target(comparison):
    metric = comparison.measures.metrics()[0]
    target = comparison.worst_target(metric)
    oracle = comparison.oracle(target, metric)
    reached = {
        point.label: metric.better * comparison.values(Policy(point.label), metric).of(target)[0].mean()
        for point in comparison.setting.points
        if point.oracle
    }
    assert oracle.label == max(reached, key=reached.get)
