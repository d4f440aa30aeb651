"""What is claimed, what is not, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from robustalign.evaluation.metrics import METRICS
from robustalign.report.choose import choose, nominal_rule
from robustalign.report.claims import CONTROLS, KINDS, PROMPTS, SEEDS, Claim, correct
from robustalign.report.compare import Comparison
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import settings
from robustalign.report.statistics import Estimate, holm
from robustalign.report.summary import summary, verdict
from robustalign.report.tables import claims_of, claims_table, results
from tests.report.conftest import make
from tests.report.synthetic import Scene, records

REWARD, ACCURACY, LOSS = (METRICS[name] for name in ("reward", "accuracy", "loss"))
CLEAR, NULL, WORSE = (Estimate(v, v - 0.1, v + 0.1, 5, 150, 20.0) for v in (0.3, 0.02, -0.3))


def claim(**changes) -> Claim:
    """A claim that holds in every respect."""
    whole = Claim("kldpo", REWARD, NULL, CLEAR, CLEAR, "dpo, step 80", CLEAR, CLEAR, CLEAR, None)
    return replace(whole, **changes)


def compared(tmp_path, points, seeds, *overrides, prompts: int = 60, change=None) -> Comparison:
    sweep = make(tmp_path, points, seeds, *overrides, scene=Scene(prompts=prompts))
    if change is not None:
        for run in sweep.runs:
            path = run.folder.results / "prompts.parquet"
            change(pd.read_parquet(path)).to_parquet(path)
    (setting,) = settings(records(sweep))
    return Comparison(Measures(setting, draws=200))


def verdict_of(comparison: Comparison, label: str) -> str:
    return verdict([claim for claim in claims_of(comparison) if claim.label == label])


def test_a_claim_that_holds_in_every_respect_is_made() -> None:
    assert claim().robust
    assert verdict([claim()]) == "beyond dpo and every control in worst-case reward"


@pytest.mark.parametrize("name", ["worst", *CONTROLS])
def test_one_comparison_that_shows_nothing_is_enough_to_claim_nothing(name) -> None:
    assert not claim(**{name: NULL}).robust
    assert "beyond dpo and" not in verdict([claim(**{name: NULL})])


def test_a_gain_without_its_controls_is_not_called_robust() -> None:
    missing = claim(shrinkage=None, controls_missing=("the shrinkage curve", "the reference"))
    assert missing.gain and not missing.robust
    assert verdict([missing]) == (
        "above dpo in worst-case reward, but not compared with the shrinkage curve and the reference: "
        "a smaller step may do that"
    )


@pytest.mark.parametrize(
    ("seeds", "prompts", "expected"),
    [
        (1, 150, "1 seed of the 3 that a verdict needs"),
        (5, 18, "18 prompts of the 30 that a verdict needs"),
        (1, 18, "1 seed of the 3 that a verdict needs and 18 prompts of the 30 that a verdict needs"),
    ],
)
def test_few_seeds_or_prompts_give_no_verdict(seeds, prompts, expected) -> None:
    few = {name: replace(CLEAR, seeds=seeds, prompts=prompts) for name in ("nominal", "worst", *CONTROLS)}
    assert not claim(**few).robust and not claim(**few).gain
    assert verdict([claim(**few)]) == f"no verdict: {expected}"
    assert (SEEDS, PROMPTS) == (3, 30)


def test_the_least_seeds_and_prompts_are_enough() -> None:
    least = {name: replace(CLEAR, seeds=SEEDS, prompts=PROMPTS) for name in ("nominal", "worst", *CONTROLS)}
    assert claim(**least).robust


def test_claims_without_a_verdict_are_no_comparisons() -> None:
    family = correct([claim(), claim(metric=ACCURACY, saturated=True), claim(worst=None, nominal=None)])
    assert [one.comparisons for one in family] == [1, 1, 1] and family[0].corrected["worst"] == CLEAR.p
    assert "not measured for both" in verdict(family[2:])


def test_a_verdict_that_cannot_be_given_for_one_metric_is_given_for_the_others() -> None:
    told = verdict([claim(), claim(metric=ACCURACY, saturated=True)])
    assert told == (
        "beyond dpo and every control in worst-case reward; "
        "no verdict on accuracy: the value is the same for every prompt and seed"
    )


def test_losses_and_nominal_differences() -> None:
    told = verdict([claim(worst=WORSE, nominal=WORSE), claim(metric=LOSS, worst=NULL, nominal=CLEAR)])
    assert told == "below dpo in worst-case reward; better in nominal loss; worse in nominal reward"
    assert verdict([claim(worst=NULL)]) == "a null result, no difference from dpo is shown"


def test_verdicts_are_corrected_for_all_of_their_kind() -> None:
    """A p-value of 1 % is enough among four comparisons, not among six."""
    edge = replace(CLEAR, low=CLEAR.value * (1 - 2.0859634 / 2.8453397))  # t quantiles at 5 % and 1 %, 20 degrees
    assert edge.p == pytest.approx(0.01, rel=0.01)
    for others, made in ((3, True), (5, False)):
        family = correct([claim(worst=edge), *[claim(worst=NULL, label=str(i)) for i in range(others)]])
        assert family[0].gain is made and family[0].comparisons == others + 1
    raw = [claim(worst=edge), claim(worst=WORSE, nominal=CLEAR), claim()]
    for kind in KINDS:
        assert [c.corrected[kind] for c in correct(raw)] == holm([c.p(kind) for c in raw])


def test_beyond_every_control_is_as_sure_as_its_weakest_comparison() -> None:
    weak = replace(CLEAR, low=0.05)
    assert claim(steps=weak).p("beyond") == weak.p > CLEAR.p
    assert claim(steps=WORSE).p("beyond") == 1.0


def test_one_seed_claims_nothing(tmp_path) -> None:
    comparison = compared(tmp_path, ("dpo", "dpo_half_rate", "kldpo_t0.5", "oracle"), (0,))
    assert verdict_of(comparison, "kldpo tau=0.5") == "no verdict: 1 seed of the 3 that a verdict needs"
    assert not claims_table(claims_of(comparison))["robust"].any()


def test_without_controls_nothing_is_beyond_them(tmp_path) -> None:
    points, bare = ("dpo", "kldpo_t0.5"), ("evaluation.shrinkage=[]", "evaluation.steps=[]")
    comparison = compared(tmp_path, points, (0, 1, 2, 3), *bare, prompts=150)
    found = {claim.metric: claim for claim in claims_of(comparison)}
    assert found[REWARD].gain and not found[REWARD].robust
    assert found[REWARD].controls_missing == ("the shrinkage curve", "dpo at other steps or learning rates")
    assert "but not compared with the shrinkage curve and dpo at other" in verdict_of(comparison, "kldpo tau=0.5")


def test_an_accuracy_of_one_everywhere_claims_nothing(tmp_path) -> None:
    def perfect(frame: pd.DataFrame) -> pd.DataFrame:
        trained = (frame["metric"] == "accuracy") & (frame["control"] == "policy")
        return frame.assign(total=frame["total"].where(~trained, frame["count"]))

    comparison = compared(tmp_path, ("dpo", "kldpo_t0.5"), (0, 1, 2), change=perfect)
    found = {claim.metric: claim for claim in claims_of(comparison)}
    assert found[ACCURACY].saturated and found[ACCURACY].missing and not found[LOSS].missing
    assert "no verdict on accuracy: the value is the same for every prompt and seed" in verdict_of(
        comparison, "kldpo tau=0.5"
    )


def test_the_words_say_among_how_many_comparisons(tmp_path) -> None:
    comparison = compared(tmp_path, ("dpo", "kldpo_t0.5", "wdpo_r0.03"), (0, 1, 2))
    claims = claims_of(comparison)
    assert {claim.comparisons for claim in claims} == {6}  # two methods, three metrics
    assert "Holm's correction for 6 comparisons" in summary(comparison.measures, comparison, claims)


def broken(label_step: str):
    """Losses and accuracies that are nan for every prompt."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        there = frame["metric"].isin(["loss", "accuracy"]) & (frame["control"] == label_step)
        return frame.assign(total=frame["total"].mask(there))

    return change


def test_a_metric_of_nan_stays_nan_in_every_table(tmp_path) -> None:
    comparison = compared(tmp_path, ("dpo", "kldpo_t1", "kldpo_t0.5", "oracle"), (0, 1, 2), change=broken("policy"))
    table = results(comparison.measures, comparison, ["test"])
    policy = table[table["control"] == "policy"]
    columns = ["value", "low", "high", "difference", "difference_low", "difference_high"]
    assert policy.loc[policy["metric"].isin(["loss", "accuracy"]), columns].isna().all(axis=None)
    assert policy.loc[policy["metric"] == "reward", columns].notna().all(axis=None)
    claims = claims_table(claims_of(comparison)).set_index(["label", "metric"])
    for metric in ("loss", "accuracy"):
        assert claims.xs(metric, level="metric")[["worst", "tuned", "shrinkage", "steps"]].isna().all(axis=None)
        assert not claims.xs(metric, level="metric")["robust"].any()
    told = verdict_of(comparison, "kldpo tau=0.5")
    assert "no verdict on accuracy and loss: its value or dpo's is not a number" in told


def test_rules_choose_nothing_by_what_is_not_a_number(tmp_path) -> None:
    comparison = compared(tmp_path, ("dpo", "kldpo_t1", "kldpo_t0.5"), (0, 1), change=broken("policy"))
    candidates = [comparison.dpo, *comparison.setting.families()["kldpo"]]
    chosen, why = nominal_rule(comparison, candidates, LOSS, 0.01)
    assert chosen is None and "no number for loss" in why
    assert all(choice.chosen is None for choice in choose(comparison, [LOSS]))
    assert comparison.tuned(LOSS, "worst") is None


def test_a_control_of_nan_is_not_passed(tmp_path) -> None:
    """The comparison with a curve is unknown where a policy on it is nan; it is not made with the rest."""
    comparison = compared(tmp_path, ("dpo", "kldpo_t0.5"), (0, 1, 2), change=broken("shrink_0.5"))
    found = {claim.metric: claim for claim in claims_of(comparison)}
    assert np.isnan(found[LOSS].shrinkage.value) and found[LOSS].worst.known
    assert not found[LOSS].robust
    assert comparison.values(Policy("kldpo tau=0.5"), LOSS).estimate("worst").known
