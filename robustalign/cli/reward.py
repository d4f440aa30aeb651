"""``robustalign reward``: train a reward model on labelled texts, and say what it is worth on texts it has not seen."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from robustalign.cli.errors import one_line_errors
from robustalign.errors import ConfigError, choices

EPILOG = """\
Files are .csv, .tsv, .jsonl or .parquet, also gzipped; --header names the columns of a table without a first line.

  robustalign reward train.tsv.gz --validation dev.tsv.gz --test test.tsv.gz --header text,labels,id \\
      --names labels.txt --group anger=anger,annoyance --group joy=joy,amusement --join 3 --to rewards/emotions

The folder is a sequence classifier: conf/reward entries with scorer=classifier path=FOLDER label=anger score by it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train, measure and save."""
    args = _parser().parse_args(argv)
    with one_line_errors():
        import torch

        from robustalign.rewards.labelled import LabelledFiles
        from robustalign.rewards.reward_card import card, table
        from robustalign.rewards.training import KINDS, Recipe, held_out, train

        torch.set_num_threads(args.threads)
        if args.kind not in KINDS:
            raise ConfigError("--kind", f"{args.kind!r} is unknown; choose one of: {choices(KINDS)}")
        if args.to.exists():
            raise ConfigError("--to", f"{args.to} exists; name another folder or remove it")
        groups = dict(group.partition("=")[::2] for group in args.group)
        files = LabelledFiles(
            train=args.train, validation=args.validation, test=args.test, kind=args.kind, text=args.text,
            other=args.other, labels=args.labels, separator=args.separator, names=args.names, header=args.header,
            groups={name: set(members.split(",")) for name, members in groups.items()},
        )  # fmt: skip
        labels, parts = files.examples()
        recipe = Recipe(
            kind=args.kind, labels=labels, base=args.base, epochs=args.epochs, learning_rate=args.learning_rate,
            batch_size=args.batch_size, max_length=args.max_length, seed=args.seed, join=args.join,
        )  # fmt: skip
        try:
            trained = train(recipe, parts["train"], parts["validation"], progress=sys.stderr.isatty())
        except ValueError as error:
            key, _, problem = str(error).partition(": ")
            raise ConfigError(f"--{key.replace('_', '-')}", problem) from error
        figures = held_out(trained, parts["test"], recipe)
        trained.save(args.to)
        (args.to / "README.md").write_text(
            card(recipe, parts, trained, figures, args.data, args.licence), encoding="utf-8"
        )
        facts = {"held_out": figures, "epoch": trained.epoch, "curve": trained.curve}
        (args.to / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        print(table(figures))
        print(f"epoch {trained.epoch} of {recipe.epochs} by validation loss, in {args.to}")
    return 0


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="robustalign reward", description=__doc__, epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("train", type=Path, help="training texts")
    parser.add_argument("--validation", type=Path, required=True, help="texts that choose the epoch")
    parser.add_argument("--test", type=Path, required=True, help="texts that nothing is chosen by")
    parser.add_argument("--to", type=Path, required=True, help="folder to write")
    parser.add_argument("--kind", default="multi_label", help="multi_label, single_label or pairs")
    parser.add_argument("--text", default="text", help="column of texts; of the better ones for pairs")
    parser.add_argument("--other", default="other", help="pairs: column of the worse texts")
    parser.add_argument("--labels", default="labels", help="column of labels")
    parser.add_argument("--separator", default=",", help="between the labels of a cell")
    parser.add_argument("--names", type=Path, help="file of label names, where cells hold their numbers from 0")
    parser.add_argument("--group", action="append", default=[], help="NAME=LABEL,LABEL: a label that is any of these")
    parser.add_argument("--header", help="names of the columns of a table without a first line")
    parser.add_argument("--join", type=int, default=1, help="join up to so many texts, with the union of their labels")
    parser.add_argument("--base", default="small", help="hub id or folder to start from; small: an encoder of our own")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=64, help="tokens; longer texts keep their start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", help="name and source of the data, for the card")
    parser.add_argument("--licence", help="of the data, for the card")
    return parser


if __name__ == "__main__":
    sys.exit(main())
