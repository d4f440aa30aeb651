"""``robustalign sync``: import the journals of sweeps into an MLflow store; what is there already is not sent again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.errors import ConfigError
from robustalign.stores import keep_password
from robustalign.sweeps.api import look
from robustalign.sweeps.mlflow_sync import SweepImporter
from robustalign.sweeps.sweep import find, sweeps


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and import."""
    parser = argparse.ArgumentParser(prog="robustalign sync", description=f"{__doc__} May be called again and again.")
    parser.add_argument("sweeps", nargs="*", help="ids, or the start of them (default: all)")
    parser.add_argument("--output", default="outputs", help="the sweeps' paths.output (default: outputs)")
    parser.add_argument("--uri", help="MLflow store (default: the sweep's tracking.uri)")
    parser.add_argument("--experiment", help="MLflow experiment (default: the sweep's tracking.experiment)")
    args = parser.parse_args(argv)
    with one_line_errors():
        output = Path(args.output).expanduser().absolute()
        for sweep in [find(output, name) for name in args.sweeps] or sweeps(output):
            try:
                look(sweep)
            except ConfigError as error:  # there may be no scheduler here, so the status files alone decide
                print(f"robustalign: warning: {error}", file=sys.stderr)
            sweep_importer = SweepImporter(sweep, keep_password(args.uri) if args.uri else None, args.experiment)
            sweep_importer.close()
            print(f"sweep {sweep.id}: {len(sweep_importer.ids)} runs in {sweep_importer.uri}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
