"""A report in sentences; a null result, and a verdict that cannot be given, are said to be that."""

from __future__ import annotations

from collections.abc import Sequence

from robustalign.report.claims import Claim
from robustalign.report.compare import Comparison
from robustalign.report.markup import in_markdown
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate
from robustalign.report.tables import text

TESTS = {
    "tuned": "dpo at its best step and learning rate",
    "shrinkage": "the shrinkage curve",
    "steps": "dpo along its steps",
    "matched_kl": "the controls at matched KL",
}


def summary(measures: Measures, comparison: Comparison | None, claims: Sequence[Claim]) -> str:
    """The report in words, as markdown: what matters in a few lines."""
    setting = measures.setting
    lines = [_head(measures), ""]
    if comparison is None:
        lines += ["There is no dpo to compare with: only values are reported.", ""]
    else:
        lines += [_baseline(comparison), ""]
        for point in setting.others:
            lines += [_short(point, [claim for claim in claims if claim.label == point.label])]
        lines += ["", _among(claims), ""]
    if setting.warnings:
        lines += ["**To be kept in mind**", "", *(f"- {in_markdown(warning)}" for warning in setting.warnings), ""]
    return "\n".join(lines)


def details(comparison: Comparison, claims: Sequence[Claim]) -> str:
    """Every comparison of every point, as markdown."""
    lines = []
    for point in comparison.setting.others:
        of_point = [claim for claim in claims if claim.label == point.label]
        lines += [
            f"**{in_markdown(point.label)}**",
            "",
            *(f"- {line}" for line in _point(comparison, of_point, point)),
            "",
        ]
    return "\n".join(lines)


def _short(point: Point, claims: Sequence[Claim]) -> str:
    """A verdict, and the numbers of the metric that comes first."""
    if not claims:
        return f"- **{in_markdown(point.label)}**: {verdict_of(point, claims)}"
    first, numbers = claims[0], []
    if first.worst is not None:
        numbers.append(f"worst case {text(first.worst, sign=True)}")
    if first.nominal is not None:
        numbers.append(f"nominal {text(first.nominal, sign=True)}")
    if first.gap_closed is not None and not point.oracle:
        numbers.append(f"{percent(first.gap_closed)} of the way to the oracle")
    first_numbers = f" ({first.metric}: {', '.join(numbers)})" if numbers else ""
    return f"- **{in_markdown(point.label)}**: {verdict_of(point, claims)}{first_numbers}"


def percent(e: Estimate) -> str:
    """A share as ``48 % [25, 64]``."""
    return f"{100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}]"


def verdict_of(point: Point, claims: Sequence[Claim]) -> str:
    """What a point is: the ceiling, a control, or what its claims come to."""
    if point.oracle:
        return "the ceiling, knows the target's people"
    return "a control" if point.plain else verdict(claims)


def _head(measures: Measures) -> str:
    config = measures.setting.config
    names = ", ".join(str((config.get(key) or {}).get("name")) for key in ("shift", "model", "dataset"))
    return (
        f"{in_markdown(names)}: {measures.count()}. Intervals are 95 %, by a bootstrap over prompts and seeds; "
        "differences are paired and signed so that more is better."
    )


def _among(claims: Sequence[Claim]) -> str:
    """How many comparisons a verdict stands among."""
    count = max((claim.comparisons for claim in claims), default=1)
    if count < 2:
        return "Each interval stands by itself: of twenty null effects one lies beyond zero by chance."
    return (
        f"Verdicts are at 5 % after Holm's correction for {count} comparisons, the methods under test times the "
        "metrics. Each interval stands by itself: of twenty null effects one lies beyond zero by chance."
    )


def _baseline(comparison: Comparison) -> str:
    """The values that dpo reaches."""
    parts = []
    for metric in comparison.measures.metrics():
        values = comparison.values(Policy(comparison.dpo.label), metric)
        if values is None:
            continue
        part = f"{metric} {text(values.estimate('nominal'))} at the nominal population"
        if values.has("worst"):
            worst = values.estimate("worst")
            which = f" ({in_markdown(comparison.worst_target(metric))})" if worst.known else ""
            part += f", {text(worst)} at the worst target{which}"
        parts.append(part)
    return f"**{in_markdown(comparison.dpo.label)}** reaches " + "; ".join(parts) + "."


def _point(comparison: Comparison, claims: Sequence[Claim], point: Point) -> list[str]:
    lines = []
    if any(claim.worst for claim in claims):
        lines.append(_differences("worst case minus dpo's", [(c, c.worst) for c in claims]))
    lines.append(_differences("nominal minus dpo's", [(c, c.nominal) for c in claims]))
    if point.oracle or point.plain:
        return lines
    for name, control in TESTS.items():
        tests = [(claim, getattr(claim, name)) for claim in claims]
        if any(e for _, e in tests):
            which = (
                "; ".join(f"{c.metric}: {in_markdown(c.tuned_is)}" for c in claims if c.tuned_is)
                if name == "tuned"
                else ""
            )
            lines.append(_differences(f"worst case beyond {control}{f' ({which})' if which else ''}", tests))
    closed = [f"{claim.metric} {percent(claim.gap_closed)}" for claim in claims if claim.gap_closed]
    if closed:
        lines.append(f"way to the oracle at dpo's worst target: {', '.join(closed)}")
    elif any(point.oracle for point in comparison.setting.points):
        lines.append("way to the oracle: unknown, the oracle is not clearly above dpo at dpo's worst target")
    return [*lines, f"verdict: {verdict(claims)}"]


def _differences(heading: str, differences: Sequence[tuple[Claim, Estimate | None]]) -> str:
    parts = [f"{claim.metric} {text(e, sign=True)} {_place(e)}" for claim, e in differences if e is not None]
    return f"{heading}: {'; '.join(parts)}"


def _place(e: Estimate) -> str:
    """Where an interval lies."""
    if not e.known:
        return "is not a number"
    return {1: "above zero", -1: "below zero", 0: "includes zero"}[e.sign]


def verdict(claims: Sequence[Claim]) -> str:
    """A few words for a point: a gain, a gain that a control has too, a loss, a null result, or none for a reason."""
    able = [claim for claim in claims if not claim.missing]
    parts = _against_dpo(able)
    if not parts and able:
        parts = ["a null result, no difference from dpo is shown"]
    elif any(claim.worst for claim in able) and not any(claim.gain or claim.loss for claim in able):
        parts.insert(0, "no difference from dpo is shown in the worst case")
    return "; ".join([*parts, *_unable(claims)]) or "a null result"


def _against_dpo(claims: Sequence[Claim]) -> list[str]:
    """What holds in the worst case, then in the nominal population."""
    parts = []
    gains = [claim for claim in claims if claim.gain]
    if robust := [claim.metric for claim in gains if claim.robust]:
        parts.append(f"beyond dpo and every control in worst-case {_list(robust)}")
    if reached := [c.metric for c in gains if not c.robust and not c.controls_missing]:
        parts.append(f"above dpo in worst-case {_list(reached)}, but not beyond every control")
    if untested := [claim for claim in gains if claim.controls_missing]:
        controls = _list(list(dict.fromkeys(name for claim in untested for name in claim.controls_missing)))
        metrics = _list([claim.metric for claim in untested])
        parts.append(f"above dpo in worst-case {metrics}, but not compared with {controls}: a smaller step may do that")
    if losses := [claim.metric for claim in claims if claim.loss]:
        parts.append(f"below dpo in worst-case {_list(losses)}")
    for sign, word in ((1, "better"), (-1, "worse")):
        if metrics_of := [claim.metric for claim in claims if claim.nominal_sign == sign]:
            parts.append(f"{word} in nominal {_list(metrics_of)}")
    return parts


def _unable(claims: Sequence[Claim]) -> list[str]:
    """The metrics without a verdict, and why."""
    reasons: dict[str, list[str]] = {}
    for claim in claims:
        if claim.missing:
            reasons.setdefault(" and ".join(claim.missing), []).append(str(claim.metric))
    if len(reasons) == 1 and all(claim.missing for claim in claims):
        return [f"no verdict: {reason}" for reason in reasons]
    return [f"no verdict on {_list(metrics)}: {reason}" for reason, metrics in reasons.items()]


def _list(names: Sequence[object]) -> str:
    *most, last = map(str, names)
    return f"{', '.join(most)} and {last}" if most else last


def title(setting: Setting, experiment: str) -> str:
    """What a report is about."""
    return experiment + (f", {setting.name}" if setting.name else "")
