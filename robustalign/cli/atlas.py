"""``robustalign atlas``: which method helps under which shift, in the class where everything can be computed."""

from __future__ import annotations

import sys
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.cli.keys import read_keys
from robustalign.errors import ConfigError

HELP = """\
Methods under shifts, on log-linear policies and people whose tastes are known (two minutes): what each gains at the
worst target over dpo, and over dpo at the same distance from the reference.

  robustalign atlas [KEY=VALUE ...]

  seeds            data sets for each shift                             20
  first            the first seed                                       100
  predictions      a table with a sign for each cell (shift, method,    none
                   sign, reason), which is set beside what came out
  output           folder for atlas.csv and atlas.png                   outputs/theory
"""
DEFAULTS: dict[str, str | None] = {"seeds": "20", "first": "100", "predictions": None, "output": "outputs/theory"}


def main() -> None:
    """Measure, print and draw."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], HELP, DEFAULTS)
        seeds, first = keys.number("seeds", least=3), keys.number("first", least=0)
        output, predictions = Path(str(keys["output"])).expanduser(), keys["predictions"]
        if predictions is not None and not Path(predictions).is_file():
            raise ConfigError("predictions", f"no file {predictions!r}")

        import pandas as pd
        import torch

        from robustalign.progress import say
        from robustalign.report.atlas import atlas_cells, matrix, with_predictions
        from robustalign.report.markup import markdown_table
        from robustalign.report.pictures.atlas import draw_atlas
        from robustalign.theory.atlas import measure

        torch.set_num_threads(1)
        output.mkdir(parents=True, exist_ok=True)
        cells = atlas_cells(measure(range(first, first + seeds), progress=say))
        if predictions is not None:
            try:
                cells = with_predictions(cells, pd.read_csv(predictions))
            except (ValueError, KeyError) as error:
                raise ConfigError("predictions", str(error)) from error
        cells.to_csv(output / "atlas.csv", index=False, float_format="%.6g")
        print(markdown_table(matrix(cells)))
        if predictions is not None:
            print(f"{int(cells['right'].sum())} of {len(cells)} predictions were right")
        print(draw_atlas(cells, output))


if __name__ == "__main__":
    main()
