"""``robustalign``: the one command. A subcommand is a module with ``main()``, imported when it is called."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from robustalign import __version__
from robustalign.errors import choices

COMMANDS = {
    "train": ("train", "train a policy and measure it under preference shift; with -m a sweep of many runs"),
    "sweep": ("sweep", "look at sweeps that were launched, and act on them: status, logs, wait, retry, cancel, submit"),
    "report": ("report", "tables, pictures and words about the runs of an experiment"),
    "choose": ("choose", "choose a radius or a temperature by rules that see validation prompts only"),
    "sync": ("sync", "bring the journals of sweeps into an MLflow store"),
    "export": ("export", "take a trained policy away as a folder that transformers opens"),
    "data": ("data", "look at people's comparisons as they would be read"),
    "audit": ("audit", "measure a policy that is there already, by whatever tool it was trained, under every target"),
    "reward": ("reward", "train a reward model on labelled texts"),
    "rates": ("log_linear_rates", "measure the theory's rates in the class it is about"),
    "atlas": ("atlas", "which method helps under which shift, where everything can be computed"),
    "demo": ("demo", "the neglected minority in 12 runs, SmolLM2 in 3, and their reports (7 minutes on 2 cores)"),
    "doctor": ("doctor", "what is installed here, what is missing, and the command that brings it"),
}
HELP = """\
Align language models robustly, and measure what holds up when preferences shift.

  robustalign COMMAND ...      robustalign COMMAND --help says more
  robustalign --version

"""


def main() -> int:
    """Run the subcommand that the command line names. Returns its exit code."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP + "\n".join(f"  {name:<8} {COMMANDS[name][1]}" for name in commands()))
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"robustalign {__version__}")
        return 0
    if words[0] not in commands():
        close = difflib.get_close_matches(words[0], commands(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of: {choices(commands())}"
        print(f"robustalign: error: {words[0]}: unknown command; {hint}", file=sys.stderr)
        return 2
    return run(words[0], words[1:])


def commands() -> list[str]:
    """The subcommands that this installation has."""
    return [name for name, (module, _) in COMMANDS.items() if find_spec(f"robustalign.cli.{module}")]


def run(name: str, words: Sequence[str]) -> int:
    """Run a subcommand with its arguments. Returns its exit code.

    Hydra's shell completion works for commands of one word, so ``train`` is also ``robustalign-train``.
    """
    sys.argv = ["robustalign-train" if name == "train" else f"robustalign {name}", *words]
    try:
        return importlib.import_module(f"robustalign.cli.{COMMANDS[name][0]}").main() or 0
    except BrokenPipeError:  # whoever read the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
