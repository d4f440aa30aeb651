"""``robustalign report``: tables, pictures and words about an experiment, from the tracking store."""

from __future__ import annotations

import sys
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.cli.keys import read_keys

HELP = """\
Compare the runs of an experiment: does a robust method hold up, at what price, and how sure is that?

  robustalign report experiment=NAME [KEY=VALUE ...]

  experiment       name in the tracking store (tracking.experiment of the runs)
  paths.output     folder with mlflow.db; reports go below it          outputs
  tracking.uri     the store                                           sqlite:///<paths.output>/mlflow.db
  output           folder of the report                                <paths.output>/reports/<experiment>
  sweep            only the runs of this sweep (its id)
  draws            of the bootstrap                                    2000
"""
DEFAULTS: dict[str, str | None] = {
    "experiment": None,
    "paths.output": "outputs",
    "tracking.uri": None,
    "output": None,
    "sweep": None,
    "draws": "2000",
}


def main() -> None:
    """Build the report and print its words and where its pictures are."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], HELP, DEFAULTS, required=("experiment",))
        experiment, output = str(keys["experiment"]), Path(str(keys["paths.output"])).expanduser().absolute()
        folder = Path(keys["output"] or output / "reports" / experiment).expanduser().absolute()
        draws = keys.number("draws", least=100)
        uri = keys.store(output)
        from robustalign.report.build import build
        from robustalign.report.markup import plain

        print(plain(build(experiment, uri, output, folder, keys["sweep"], draws)))
        print(f"Tables and pictures: {folder}")
        for name in ("report.html", "curves.png", "trade_off_nominal.png", "table.md"):
            for path in sorted(folder.rglob(name)):
                print(f"  {path}")


if __name__ == "__main__":
    main()
