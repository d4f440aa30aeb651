"""``robustalign demo``: a small sweep with its report, on what robust training does for a neglected minority."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from robustalign import wheels
from robustalign.cli.errors import one_line_errors
from robustalign.errors import ConfigError

HELP = """\
The neglected minority in 12 runs of a tiny policy, SmolLM2-135M in 3, a report of each: about 7 minutes on 2 cores.

  robustalign demo [KEY=VALUE ...]

Keys are those of robustalign train, and go to every run: paths.output=FOLDER, trainer.max_steps=10, ...
A second call runs only what is unfinished.
"""
EXPERIMENTS = ("demo", "demo_smollm2")


def main() -> int:
    """Train, report, and say what to do next. Returns the exit code of the first command that fails."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0
    with one_line_errors():
        if missing := wheels.missing():
            raise ConfigError("demo", f"needs the wheels {', '.join(missing)}; install them with '{wheels.install()}'")
        for experiment in EXPERIMENTS:
            if code := _call("train", "-m", f"experiment={experiment}", *words):
                return code
        for experiment in reversed(EXPERIMENTS):
            if code := _call("report", f"experiment={experiment}", *(w for w in words if _places(w))):
                return code
    output = Path(next((w.partition("=")[2] for w in words if w.startswith("paths.output=")), "outputs"))
    sweep = "robustalign train -m experiment=radius_sweep   (55 runs, about 45 minutes on 2 cores)"
    print(f"\nThe full radius sweep:  {sweep}")
    print(f"Compare runs:           mlflow ui --backend-store-uri sqlite:///{output.expanduser()}/mlflow.db")
    return 0


def _call(command: str, *words: str) -> int:
    return subprocess.call([sys.executable, "-m", "robustalign.cli.main", command, *words])


def _places(word: str) -> bool:
    return word.startswith(("paths.output=", "tracking.uri="))


if __name__ == "__main__":
    sys.exit(main())
