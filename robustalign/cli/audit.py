"""``robustalign audit``: measure an existing policy, whatever tool trained it, and report."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.errors import ConfigError

EPILOG = """\
KEY=VALUE are those of train.py: the data, the shift and the evaluation (dataset=... shift=... evaluation.replies=4).
The audit is a run with method=audit: it is logged to MLflow, found again when nothing has changed, and reported with
all others of its experiment (tracking.experiment, by default "audit"). method.beta is that of the policy's training.
"""
KEPT = {"tracking.experiment": "audit", "paths.output": "outputs"}  # keys that the report shares, with their defaults


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, and report."""
    parser = argparse.ArgumentParser(
        prog="robustalign audit", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("policy", help="a folder of save_pretrained or of adapters, run:IDENTITY, or a hub id")
    parser.add_argument("reference", help="the model it was trained from: the same, or asset:NAME or wheel:NAME")
    parser.add_argument("--label", help="what tables call the policy (default: the last part of its path)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="see below")
    args = parser.parse_args(argv)
    with one_line_errors():
        for word in args.overrides:
            if "=" not in word:
                raise ConfigError(word, "is no KEY=VALUE")
        keys = KEPT | {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in args.overrides}
        code = subprocess.call([sys.executable, "-m", "robustalign.cli.train", *words(args)])
        if code == 0 and keys.get("tracking") != "spool" and keys.get("tracking.kind") != "spool":
            words_of_report = [f"experiment={keys['tracking.experiment']}", f"paths.output={keys['paths.output']}"]
            words_of_report += [f"tracking.uri={keys['tracking.uri']}"] if "tracking.uri" in keys else []
            code = subprocess.call([sys.executable, "-m", "robustalign.cli.report", *words_of_report])
    return code


def words(args: argparse.Namespace) -> list[str]:
    """The overrides of ``robustalign train`` that make the audit."""
    label = args.label or Path(args.policy.rpartition(":")[2].rstrip("/")).name
    fixed = ["method=audit", f"method.policy='{args.policy}'", f"label='{label}'", "trainer.max_steps=1"]
    model = [] if any(word.startswith("model=") for word in args.overrides) else ["model=pretrained"]
    experiment = f"tracking.experiment={KEPT['tracking.experiment']}"
    return [*fixed, *model, f"model.path='{args.reference}'", experiment, *args.overrides]


if __name__ == "__main__":
    sys.exit(main())
