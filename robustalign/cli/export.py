"""``robustalign export``: take a trained policy away as a folder that ``AutoModelForCausalLM`` opens."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from robustalign.cli.errors import one_line_errors

EPILOG = """\
best:EXPERIMENT takes the strongest setting of --method whose nominal validation value stays within 1 % of dpo's, and of
its seeds the one with the best nominal validation value: a rule that sees no test prompt and no test population.
The runs must have been trained with trainer.save_model=true.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog="robustalign export", description=__doc__, epilog=EPILOG)
    parser.add_argument("run", help="a run's identity (or the start of it), or best:EXPERIMENT")
    parser.add_argument("--to", type=Path, help="folder to write (default: exports/IDENTITY below --output)")
    parser.add_argument("--merge", action="store_true", help="merge adapters into their base")
    parser.add_argument("--method", help="best: the method to choose a setting of (default: the only robust one)")
    parser.add_argument("--metric", help="best: reward, accuracy or loss (default: the first there is)")
    parser.add_argument("--output", default="outputs", help="the runs' paths.output (default: outputs)")
    parser.add_argument("--uri", help="best: the tracking store (default: sqlite:///OUTPUT/mlflow.db)")
    parser.add_argument("--mlflow", action="store_true", help="log the folder as an artefact of the run, too")
    args = parser.parse_args(argv)
    with one_line_errors():
        output = Path(args.output).expanduser().absolute()
        identity = args.run
        if identity.startswith("best:"):
            from robustalign.report.best import best_run

            identity = best_run(identity.removeprefix("best:"), args.uri, output, args.method, args.metric)
        from robustalign.pipeline.export import export

        folder = export(identity, output, args.to, merged=args.merge)
        print(folder)
        if args.mlflow:
            from robustalign.report.load import store
            from robustalign.tracking.files import attach_model

            attach_model(store(args.uri, output), identity, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
