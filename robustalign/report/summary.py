"""What was found, in sentences; a null result is said to be one."""

from __future__ import annotations

from collections.abc import Sequence

from robustalign.report.compare import Claim, Comparison
from robustalign.report.measures import Measures, Policy
from robustalign.report.settings import Point, Setting
from robustalign.report.statistics import Estimate
from robustalign.report.tables import text

TESTS = (
    ("tuned", "dpo at its best step and learning rate"),
    ("shrinkage", "the shrinkage curve"),
    ("steps", "dpo along its steps"),
    ("matched_kl", "the controls at matched KL"),
)


def summary(measures: Measures, comparison: Comparison | None, claims: Sequence[Claim]) -> str:
    """The report in words, as markdown: what matters in a few lines."""
    setting = measures.setting
    lines = [_head(measures), ""]
    if comparison is None:
        lines += ["There is no dpo to compare with: only values are reported.", ""]
    else:
        lines += [_scene(comparison), ""]
        for point in setting.others:
            lines += _short(point, [claim for claim in claims if claim.label == point.label])
        lines += ["", "Each interval stands by itself: of twenty null effects one lies beyond zero by chance.", ""]
    if setting.warnings:
        lines += ["**To be kept in mind**", "", *(f"- {warning}" for warning in setting.warnings), ""]
    return "\n".join(lines)


def details(comparison: Comparison, claims: Sequence[Claim]) -> str:
    """Every comparison of every point, as markdown."""
    lines = []
    for point in comparison.setting.others:
        mine = [claim for claim in claims if claim.label == point.label]
        lines += [f"**{point.label}**", "", *(f"- {line}" for line in _point(comparison, mine, point)), ""]
    return "\n".join(lines)


def _short(point: Point, claims: Sequence[Claim]) -> list[str]:
    """A verdict, and the numbers of the metric that comes first."""
    first = claims[0] if claims else None
    told = []
    if first is not None and first.worst is not None:
        told.append(f"worst case {text(first.worst, sign=True)}")
    if first is not None and first.nominal is not None:
        told.append(f"nominal {text(first.nominal, sign=True)}")
    if first is not None and first.gap_closed is not None and not point.oracle:
        e = first.gap_closed
        told.append(f"{100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}] of the way to the oracle")
    numbers = f" ({first.metric}: {', '.join(told)})" if first is not None and told else ""
    return [f"- **{point.label}**: {_verdict_of(point, claims)}{numbers}"]


def _verdict_of(point: Point, claims: Sequence[Claim]) -> str:
    if point.oracle:
        return "the ceiling, knows the target's people"
    return "a control" if point.plain else verdict(claims)


def _head(measures: Measures) -> str:
    config = measures.setting.config
    names = ", ".join(str((config.get(key) or {}).get("name")) for key in ("shift", "model", "dataset"))
    return (
        f"{names}: {measures.count()}. Intervals are 95 %, by a bootstrap over prompts and seeds; "
        "differences are paired and signed so that more is better."
    )


def _scene(comparison: Comparison) -> str:
    parts = []
    for metric in comparison.measures.metrics():
        values = comparison.values(Policy(comparison.dpo.label), metric)
        if values is None:
            continue
        told = f"{metric} {text(values.estimate('nominal'))} at the nominal population"
        if values.has("worst"):
            told += f", {text(values.estimate('worst'))} at the worst target ({comparison.worst_target(metric)})"
        parts.append(told)
    return f"**{comparison.dpo.label}** reaches " + "; ".join(parts) + "."


def _point(comparison: Comparison, claims: Sequence[Claim], point: Point) -> list[str]:
    lines = []
    if any(claim.worst for claim in claims):
        lines.append(_differences("worst case minus dpo's", [(c.metric, c.worst) for c in claims]))
    lines.append(_differences("nominal minus dpo's", [(c.metric, c.nominal) for c in claims]))
    if point.oracle or point.plain:
        return lines
    for name, what in TESTS:
        found = [(claim.metric, getattr(claim, name)) for claim in claims]
        if any(e for _, e in found):
            chosen = ""
            if name == "tuned":
                chosen = " (" + "; ".join(f"{c.metric}: {c.tuned_is}" for c in claims if c.tuned_is) + ")"
            lines.append(_differences(f"worst case beyond {what}{chosen}", found))
    closed = [(claim.metric, claim.gap_closed) for claim in claims if claim.gap_closed]
    if closed:
        told = ", ".join(f"{m} {100 * e.value:.0f} % [{100 * e.low:.0f}, {100 * e.high:.0f}]" for m, e in closed if e)
        lines.append(f"way to the oracle at dpo's worst target: {told}")
    elif any(point.oracle for point in comparison.setting.points):
        lines.append("way to the oracle: not told, the oracle is not clearly above dpo at dpo's worst target")
    return [*lines, f"in short: {verdict(claims)}"]


def _differences(what: str, found: Sequence[tuple[str, Estimate | None]]) -> str:
    told = "; ".join(f"{metric} {text(e, sign=True)} {_word(e)}" for metric, e in found if e is not None)
    return f"{what}: {told}"


def _word(e: Estimate) -> str:
    return {1: "better", -1: "worse", 0: "no difference shown"}[e.sign]


def verdict(claims: Sequence[Claim]) -> str:
    """A few words for a point: a gain, a gain that a control has too, a loss, or a null result."""
    if not any(claim.worst for claim in claims):
        better = [claim.metric for claim in claims if claim.nominal and claim.nominal.sign > 0]
        return f"better than dpo in {_list(better)}" if better else "a null result"
    gains = [claim.metric for claim in claims if claim.robust]
    partial = [claim.metric for claim in claims if claim.worst and claim.worst.sign > 0 and not claim.robust]
    losses = [claim.metric for claim in claims if claim.worst and claim.worst.sign < 0]
    price = [claim.metric for claim in claims if claim.nominal and claim.nominal.sign < 0]
    told = []
    if gains:
        told.append(f"beyond dpo and every control in worst-case {_list(gains)}")
    if partial:
        told.append(f"above dpo in worst-case {_list(partial)}, but not beyond every control")
    if losses:
        told.append(f"below dpo in worst-case {_list(losses)}")
    if not told:
        told.append("a null result, no difference from dpo is shown in the worst case")
    if price:
        told.append(f"worse in nominal {_list(price)}")
    return "; ".join(told)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plain(markdown: str) -> str:
    """The same for a terminal."""
    return markdown.replace("**", "")


def title(setting: Setting, experiment: str) -> str:
    """What a report is about."""
    return experiment + (f", {setting.name}" if setting.name else "")
