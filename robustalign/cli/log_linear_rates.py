"""``robustalign rates``: the convergence rates of the theory, measured on log-linear policies."""

from __future__ import annotations

import sys
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.cli.keys import read_keys

HELP = """\
Estimation error and worst-case loss of DPO, KLDPO and WDPO against the number of pairs, in the log-linear class of
arXiv 2502.01930, section 4; prints the fitted slopes and draws one picture (about a minute).

  robustalign rates [KEY=VALUE ...]

  seeds            data sets for each number of pairs                  20
  output           folder for rates.csv, slopes.csv and rates.png      outputs/theory
"""
DEFAULTS: dict[str, str | None] = {"seeds": "20", "output": "outputs/theory"}


def main() -> None:
    """Measure, print and draw."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], HELP, DEFAULTS)
        seeds, output = keys.number("seeds", least=2), Path(str(keys["output"])).expanduser()

        import torch

        from robustalign.report.markup import markdown_table
        from robustalign.report.pictures.rates import draw_rates
        from robustalign.theory.rates import Settings, measure, slopes

        torch.set_num_threads(1)
        output.mkdir(parents=True, exist_ok=True)
        table = measure(Settings(seeds=seeds))
        fitted = slopes(table)
        table.to_csv(output / "rates.csv", index=False, float_format="%.8g")
        fitted.to_csv(output / "slopes.csv", index=False, float_format="%.6g")
        print(markdown_table(fitted.round(3)))
        print(draw_rates(table, fitted, output))


if __name__ == "__main__":
    main()
