"""The run of an experiment to go on with, chosen without any test prompt or test population."""

from __future__ import annotations

from pathlib import Path

from robustalign.errors import ConfigError, choices
from robustalign.report.build import finished_settings
from robustalign.report.choose import nominal_rule
from robustalign.report.compare import Comparison
from robustalign.report.load import store
from robustalign.report.measures import Measures, Policy


def best_run(
    experiment: str,
    uri: str | None,
    output: Path,
    method: str | None = None,
    metric: str | None = None,
    tolerance: float = 0.01,
) -> str:
    """The identity of a run: the nominal rule's setting of a method, and the best of its seeds.

    The setting is the strongest one whose nominal validation value is within ``tolerance`` (a share) of dpo's; of its
    seeds the one with the best nominal validation value is taken.

    Args:
        experiment: its name in the store.
        uri: the store; by default the SQLite file below ``output``.
        output: ``paths.output`` of the runs.
        method: whose settings are compared; by default the only method with more than dpo's.
        metric: by default the first that validation prompts have.

    Raises:
        ConfigError: no such runs, several settings or methods, or nothing measured on validation prompts.
    """
    finished = finished_settings(store(uri, output), experiment, output, None)[1]
    if len(finished) != 1:
        raise ConfigError("best", f"{experiment!r} has {len(finished)} settings; name a run of one of them")
    if finished[0].baseline is None:
        raise ConfigError("best", f"{experiment!r} has no dpo to hold the nominal value against")
    comparison = Comparison(Measures(finished[0], draws=100))
    metrics = {m.name: m for m in comparison.measures.metrics("validation")}
    if not metrics or (metric is not None and metric not in metrics):
        raise ConfigError("--metric", f"validation prompts have: {choices(metrics) or 'nothing'}")
    families = comparison.setting.families()
    if method is None and len(families) > 1:
        raise ConfigError("--method", f"{experiment!r} has several; choose one of: {choices(families)}")
    if method is not None and method not in families:
        raise ConfigError("--method", f"no {method!r} in {experiment!r}; there are: {choices(families)}")
    points = families[method] if method else next(iter(families.values()), [])
    by = metrics[metric or next(iter(metrics))]
    chosen, why = nominal_rule(comparison, [comparison.dpo, *points], by, tolerance)
    if chosen is None:
        raise ConfigError("best", why)
    values = comparison.values(Policy(chosen.label), by, "validation")
    assert values is not None
    nominal = by.better * values.of("nominal")[0]
    return chosen.runs[values.seeds[int(nominal.argmax())]].identity
