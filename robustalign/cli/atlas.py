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
  experiment       measure the runs of this experiment instead: what    none
                   each method gains in reward under each shift
  paths.output     folder with mlflow.db of the experiment              outputs
  tracking.uri     the store                                            sqlite:///<paths.output>/mlflow.db
  predictions      a table with a sign for each cell (shift, method,    none
                   sign, reason), which is set beside what came out
  output           folder for atlas.csv and atlas.png                   outputs/theory; of an experiment
                                                                        <paths.output>/atlas/<experiment>
"""
DEFAULTS: dict[str, str | None] = {
    "seeds": "20",
    "first": "100",
    "experiment": None,
    "paths.output": "outputs",
    "tracking.uri": None,
    "predictions": None,
    "output": None,
}


def main() -> None:
    """Measure, print and draw."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], HELP, DEFAULTS)
        seeds, first = keys.number("seeds", least=3), keys.number("first", least=0)
        experiment, predictions = keys["experiment"], keys["predictions"]
        runs = Path(str(keys["paths.output"])).expanduser().absolute()
        own = Path("outputs/theory") if experiment is None else runs / "atlas" / experiment
        output = own if keys["output"] is None else Path(keys["output"]).expanduser()
        if predictions is not None and not Path(predictions).is_file():
            raise ConfigError("predictions", f"no file {predictions!r}")

        import pandas as pd
        import torch

        from robustalign.progress import say
        from robustalign.report.atlas import atlas_cells, experiment_cells, matrix, with_predictions
        from robustalign.report.build import finished_settings
        from robustalign.report.markup import markdown_table
        from robustalign.report.pictures.atlas import draw_atlas
        from robustalign.theory.atlas import measure

        torch.set_num_threads(1)
        output.mkdir(parents=True, exist_ok=True)
        if experiment is None:
            cells = atlas_cells(measure(range(first, first + seeds), progress=say))
        else:
            try:
                cells = experiment_cells(finished_settings(keys.store(runs), experiment, runs, None)[1])
            except ValueError as error:
                raise ConfigError("experiment", f"{experiment!r} has {error}") from error
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
