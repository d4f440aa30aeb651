"""``robustalign choose``: which radius or temperature to take, without seeing the test population."""

from __future__ import annotations

import sys
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.cli.keys import Keys, read_keys

HELP = """\
Choose a radius (or temperature) of each method by rules that see validation prompts only.

  robustalign choose experiment=NAME [KEY=VALUE ...]

  experiment       name in the tracking store (tracking.experiment of the runs)
  paths.output     folder with mlflow.db                               outputs
  tracking.uri     the store                                           sqlite:///<paths.output>/mlflow.db
  sweep            only the runs of this sweep (its id)
  metric           such as reward, accuracy or loss                    the first there is
  tolerance        rule nominal: what may be lost, a share of dpo's    0.01
  draws            of the bootstrap                                    2000

Rules: nominal (the strongest whose nominal validation value is within the tolerance of dpo's), confidence
(the radius that the number of training pairs asks for), leave_one_out (the best over the other validation
targets). Test values are shown for what was chosen, and for the best in hindsight.
"""
DEFAULTS: dict[str, str | None] = {
    "experiment": None,
    "paths.output": "outputs",
    "tracking.uri": None,
    "sweep": None,
    "metric": None,
    "tolerance": "0.01",
    "draws": "2000",
}


def main() -> None:
    """Print each rule's choice for each method."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], HELP, DEFAULTS, required=("experiment",))
        output = Path(str(keys["paths.output"])).expanduser().absolute()
        print(choices_of(keys, keys.store(output), output, keys.number("draws", least=100), keys.share("tolerance")))


def choices_of(keys: Keys, uri: str, output: Path, draws: int, tolerance: float) -> str:
    """The choices as text, setting by setting.

    Raises:
        ConfigError: no such runs, no dpo among them, or no such metric.
    """
    from robustalign.errors import ConfigError, choices
    from robustalign.report.build import finished_settings
    from robustalign.report.choose import choices_table, choose
    from robustalign.report.compare import Comparison
    from robustalign.report.markup import markdown_table
    from robustalign.report.measures import Measures

    lines = []
    for setting in finished_settings(uri, str(keys["experiment"]), output, keys["sweep"])[1]:
        if setting.baseline is None or not setting.robust:
            raise ConfigError("experiment", "needs runs of dpo and of a method with a radius or a temperature")
        comparison = Comparison(Measures(setting, draws))
        metrics = {metric.name: metric for metric in comparison.measures.metrics("validation")}
        if keys["metric"] is not None and keys["metric"] not in metrics:
            raise ConfigError("metric", f"no {keys['metric']!r} on validation prompts; choose from {choices(metrics)}")
        if not metrics:
            raise ConfigError("experiment", "its runs were not evaluated on validation prompts")
        table = choices_table(choose(comparison, [metrics[keys["metric"] or next(iter(metrics))]], tolerance))
        warnings = "".join(f"\n- {warning}" for warning in setting.warnings)
        lines.append(f"{setting.name}\n\n{markdown_table(table)}\n{warnings}".strip())
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
