"""``scripts/sweep.py``: look at sweeps that were launched, and act on them, from any shell."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.errors import ConfigError, choices
from robustalign.pipeline.control import cancel, look, ready_again
from robustalign.pipeline.launchers.display import minutes, table
from robustalign.pipeline.launchers.execute import restore, resume
from robustalign.pipeline.sweep import Run, Sweep, find

LINES = 40  # of a log


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do what it says."""
    args = _parser().parse_args(argv)
    with one_line_errors():
        return int(args.do(args))


def status(args: argparse.Namespace) -> int:
    """A table of the runs; those whose process died are marked as killed."""
    sweep = _sweep(args)
    look(sweep)
    rows = [
        (
            run.name,
            run.folder.name,
            status.state.value,
            str(status.step),
            f"{minutes(status):.1f}",
            run.folder.job() or "-",
            str(run.folder.log),
            (status.error or "")[:100],
        )
        for run, status in sweep.status()
    ]
    print(f"sweep {sweep.id}: {sweep.command}")
    print(table(("run", "identity", "state", "step", "minutes", "job", "log", "error"), rows))
    return 0


def retry(args: argparse.Namespace) -> int:
    """Start failed, cancelled and worn-out runs again, from their checkpoints."""
    sweep = _sweep(args)
    look(sweep)
    return resume(sweep, ready_again(_chosen(sweep, args.runs)), restore(sweep))


def wait(args: argparse.Namespace) -> int:
    """Stay until every run ended; killed runs, and runs that nobody runs any more, are started again."""
    sweep = _sweep(args)
    look(sweep)
    todo = [run for run, status in sweep.status() if not status.state.ended and not _worn_out(sweep, run)]
    backend = restore(sweep)
    if hasattr(backend, "wait"):
        backend.wait = True
    return resume(sweep, todo, backend)


def stop(args: argparse.Namespace) -> int:
    """Cancel runs: those at work save a checkpoint first."""
    sweep = _sweep(args)
    asked = cancel(sweep, _chosen(sweep, args.runs))
    print(f"{len(asked)} runs cancelled (those at work at their next step)")
    return 0


def logs(args: argparse.Namespace) -> int:
    """The end of a run's log, and with ``--follow`` what comes."""
    (run,) = _chosen(_sweep(args), [args.run])
    print(f"==> {run.folder.log}", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt, FileNotFoundError), open(run.folder.log, errors="replace") as log:
        print("".join(log.readlines()[-LINES:]), end="")
        while args.follow and not run.folder.status().state.ended:
            print(log.read(), end="", flush=True)
            time.sleep(0.5)
    return 0


def submit(args: argparse.Namespace) -> int:
    """Launch a sweep like ``train.py -m``; with ``--no-wait`` come back at once."""
    train = [sys.executable, "-m", "robustalign.cli.train", "--multirun", *args.overrides]
    if not args.no_wait:
        return subprocess.call(train)
    if "hydra/launcher=slurm" in args.overrides:
        return subprocess.call([*train, "hydra.launcher.wait=false"])
    if code := subprocess.call([*train, "sweep.dry_run=true"]):
        return code
    log = Path(args.output).absolute() / "sweeps" / f"launch-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        subprocess.Popen(train, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)
    print(f"launched in the background; log: {log}")
    return 0


def _sweep(args: argparse.Namespace) -> Sweep:
    return find(Path(args.output).absolute(), args.sweep)


def _chosen(sweep: Sweep, names: Sequence[str]) -> list[Run]:
    """Runs by identity (or its start) or by name; all if none is named."""
    chosen = [run for run in sweep.runs if not names or any(_fits(run, name) for name in names)]
    for name in names:
        if not any(_fits(run, name) for run in chosen):
            known = choices(f"{run.folder.name} ({run.name})" for run in sweep.runs)
            raise ConfigError("run", f"no run {name!r} in sweep {sweep.id}; it has: {known}")
    return chosen


def _fits(run: Run, name: str) -> bool:
    return run.name == name or run.folder.name.startswith(name)


def _worn_out(sweep: Sweep, run: Run) -> bool:
    status = run.folder.status()
    return status.kills > sweep.max_restarts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sweep.py", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, do: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=do.__doc__, description=do.__doc__)
        command.add_argument("--output", default="outputs", help="the sweep's paths.output (default: outputs)")
        command.set_defaults(do=do)
        return command

    which = "the sweep's id, or the start of it (default: the last one launched)"
    for name, do in (("status", status), ("wait", wait)):
        add(name, do).add_argument("sweep", nargs="?", help=which)
    for name, do in (("retry", retry), ("cancel", stop)):
        command = add(name, do)
        command.add_argument("--sweep", help=which)
        command.add_argument("runs", nargs="*", help="identities (or the start of them) or names (default: all)")
    command = add("logs", logs)
    command.add_argument("--sweep", help=which)
    command.add_argument("run", help="its identity, the start of it, or its name")
    command.add_argument("-f", "--follow", action="store_true", help="go on printing")
    command = add("submit", submit)
    command.add_argument("--no-wait", action="store_true", help="launch and come back")
    command.add_argument("overrides", nargs="*", help="as for train.py")
    return parser


if __name__ == "__main__":
    sys.exit(main())
