"""``robustalign sweep``: show launched sweeps, and wait for, retry or cancel their runs, from any shell."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from robustalign.cli.errors import one_line_errors
from robustalign.sweeps import api
from robustalign.sweeps.display import table
from robustalign.sweeps.sweep import Sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the subcommand. Returns its exit code."""
    args = _parser().parse_args(argv)
    with one_line_errors():
        return int(args.do(args))


def status(args: argparse.Namespace) -> int:
    """A table of the runs; those whose process died are marked as killed."""
    sweep = _sweep(args)
    rows = [
        (run, identity, state, str(step), f"{minutes:.1f}", job, log, error[:100])
        for run, identity, state, step, minutes, job, log, error in api.rows(sweep)
    ]
    print(f"sweep {sweep.id}: {sweep.command}")
    print(table(api.COLUMNS, rows))
    return 0


def retry(args: argparse.Namespace) -> int:
    """Start failed, cancelled and too often killed runs again, from their checkpoints."""
    return api.retry(_sweep(args), *args.runs)


def wait(args: argparse.Namespace) -> int:
    """Wait until every run has ended; killed runs, and runs without a process or job, are started again."""
    return api.wait(_sweep(args))


def cancel(args: argparse.Namespace) -> int:
    """Cancel runs; a running one saves a checkpoint first."""
    cancelled = api.cancel(_sweep(args), *args.runs)
    print(f"{len(cancelled)} runs cancelled (running ones stop at their next step)")
    return 0


def logs(args: argparse.Namespace) -> int:
    """Print the end of a run's log; with ``--follow``, go on until the run ends."""
    sweep = _sweep(args)
    (run,) = api.chosen(sweep, [args.run])
    print(f"==> {run.folder.log}", file=sys.stderr)
    print(api.log(sweep, args.run), end="", flush=True)
    with contextlib.suppress(KeyboardInterrupt, FileNotFoundError), open(run.folder.log, errors="replace") as log:
        log.seek(0, os.SEEK_END)
        while args.follow and not run.folder.status().state.ended:
            time.sleep(0.5)
            print(log.read(), end="", flush=True)
    return 0


def submit(args: argparse.Namespace) -> int:
    """Launch a sweep like ``robustalign train -m``; with ``--no-wait`` come back once it is launched."""
    words = [f"paths.output={args.output}", *args.overrides, *(["hydra.launcher.wait=false"] if args.no_wait else [])]
    return subprocess.call([sys.executable, "-m", "robustalign.cli.train", "-m", *words])


def _sweep(args: argparse.Namespace) -> Sweep:
    return api.find(args.output, args.sweep)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="robustalign sweep", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=do.__doc__, description=do.__doc__)
        command.add_argument("--output", default="outputs", help="the sweep's paths.output (default: outputs)")
        command.set_defaults(do=do)
        return command

    which = "the sweep's id, or the start of it (default: the last one launched)"
    for name, do in (("status", status), ("wait", wait)):
        add(name, do).add_argument("sweep", nargs="?", help=which)
    for name, do in (("retry", retry), ("cancel", cancel)):
        command = add(name, do)
        command.add_argument("--sweep", help=which)
        command.add_argument("runs", nargs="*", help="identities (or the start of them) or names (default: all)")
    command = add("logs", logs)
    command.add_argument("--sweep", help=which)
    command.add_argument("run", help="its identity, the start of it, or its name")
    command.add_argument("-f", "--follow", action="store_true", help="go on printing")
    command = add("submit", submit)
    command.add_argument("--no-wait", action="store_true", help="launch and come back")
    command.add_argument("overrides", nargs="*", help="as for robustalign train")
    return parser


if __name__ == "__main__":
    sys.exit(main())
