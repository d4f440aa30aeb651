"""``robustalign reward``: train a reward model on labelled texts, and say what it is worth on texts it has not seen."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from robustalign.cli.errors import one_line_errors
from robustalign.config import config_dir
from robustalign.errors import ConfigError, choices
from robustalign.stores import hide

if TYPE_CHECKING:
    from robustalign.rewards.held_out import Figures
    from robustalign.rewards.training import Examples, Recipe, Trained

EPILOG = """\
Files are .csv, .tsv, .jsonl or .parquet, also gzipped; --header names the columns of a table without a first line.

  robustalign reward train.tsv.gz --validation dev.tsv.gz --test test.tsv.gz --header text,labels,id \\
      --names labels.txt --group anger=anger,annoyance --group joy=joy,amusement --join 3 --to rewards/emotions

The folder is a sequence classifier: conf/reward entries with scorer=classifier path=FOLDER label=anger score by it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, train, measure and save."""
    args = _parser().parse_args(argv)
    args.command = hide(shlex.join(["robustalign", "reward", *(sys.argv[1:] if argv is None else argv)]))
    with one_line_errors():
        import torch

        from robustalign.rewards.labelled import LabelledFiles
        from robustalign.rewards.training import KINDS, Recipe, train

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
        others = _others(args.against, labels) if args.against else {}
        recipe = Recipe(
            kind=args.kind, labels=labels, base=args.base, epochs=args.epochs, learning_rate=args.learning_rate,
            batch_size=args.batch_size, max_length=args.max_length, seed=args.seed, join=args.join,
        )  # fmt: skip
        try:
            trained = train(recipe, parts["train"], parts["validation"], progress=sys.stderr.isatty())
        except ValueError as error:
            key, _, problem = str(error).partition(": ")
            raise ConfigError(f"--{key.replace('_', '-')}", problem) from error
        _write(
            args, recipe, parts, trained, files.groups, _measure(args.against, recipe, parts["test"], trained, others)
        )
    return 0


def _others(name: str, labels: Sequence[str]) -> dict[str, Any]:
    """The objectives of a file of ``conf/reward`` that are called as labels are.

    Raises:
        ConfigError: no such file, or none of its objectives.
    """
    place = config_dir() / "reward"
    if not (place / f"{name}.yaml").is_file():
        there = choices(file.stem for file in place.glob("*.yaml"))
        raise ConfigError("--against", f"no rewards {name!r}; choose one of: {there}")
    groups_of_file = yaml.safe_load((place / f"{name}.yaml").read_text(encoding="utf-8"))
    groups = {label: groups_of_file[label] for label in labels if label in groups_of_file}
    if not groups:
        raise ConfigError("--against", f"{name} has none of: {choices(labels)}; it has: {choices(groups_of_file)}")
    return groups


def _measure(
    name: str | None, recipe: Recipe, test: Examples, trained: Trained, others: Mapping[str, Any]
) -> dict[str, Figures]:
    """Held-out figures by what they are of: single texts, joined ones where those were trained on, another scorer."""
    from robustalign.rewards import score_all
    from robustalign.rewards.held_out import against, held_out
    from robustalign.rewards.training import joined_texts

    tables = {"Held-out test texts": held_out(trained, test, recipe)}
    if recipe.join > 1:
        joined = joined_texts(test, recipe.join, np.random.default_rng(recipe.seed))
        tables["Held-out test texts, joined as in training"] = held_out(trained, joined, recipe)
    if others:
        with tempfile.TemporaryDirectory() as folder:

            def assets(scorer: str, module: ModuleType) -> Path:
                place = Path(folder) / scorer
                if not place.exists():
                    place.mkdir()
                    getattr(module, "prepare", lambda _: None)(place)
                return place

            scores = score_all(others, assets, [""] * len(test), test.texts)
        tables[f"Area under the curve against `reward={name}` (other) on the same test texts"] = against(
            trained, test, recipe, scores
        )
    return tables


def _write(
    args: argparse.Namespace,
    recipe: Recipe,
    parts: Mapping[str, Examples],
    trained: Trained,
    groups: Mapping[str, set[str]],
    tables: Mapping[str, Figures],
) -> None:
    from robustalign.rewards.reward_card import card, table

    trained.save(args.to)
    about = {"data": args.data, "licence": args.licence, "groups": groups, "command": args.command}
    (args.to / "README.md").write_text(card(recipe, parts, trained, tables, **about), encoding="utf-8")
    facts = {"held_out": tables, "epoch": trained.epoch, "curve": trained.curve}
    (args.to / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    for title, figures in tables.items():
        print(f"{title}:\n{table(figures)}\n")
    if args.track:
        print(f"MLflow run {_track(args, recipe, trained, tables)} of experiment {args.track}")
    print(f"epoch {trained.epoch} of {recipe.epochs} by validation loss, in {args.to}")


def _track(args: argparse.Namespace, recipe: Recipe, trained: Trained, tables: Mapping[str, Figures]) -> str:
    """A run of MLflow with the recipe, the losses, the held-out figures and the fingerprints of texts and weights."""
    from robustalign import fingerprints
    from robustalign.report.load import store
    from robustalign.tracking.reward_runs import record_reward

    figures = {
        f"held_out/{label}/{metric}": float(figure.value)
        for label, row in next(iter(tables.values())).items()
        for metric, figure in row.items()
    }
    tags = {f"texts.{split}": fingerprints.of_file(getattr(args, split)) for split in ("train", "validation", "test")}
    tags |= {"weights": fingerprints.of_options({"path": str(args.to)})["path"], "command": args.command}
    return record_reward(
        store(args.uri, args.output),
        args.track,
        args.output / "mlartifacts",
        args.to,
        params={name: str(value) for name, value in vars(recipe).items()},
        curve=trained.curve,
        figures=figures,
        tags=tags,
    )


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
    parser.add_argument("--against", help="file of conf/reward: compare its objectives of the same names, held out")
    parser.add_argument("--data", help="name and source of the data, for the card")
    parser.add_argument("--licence", help="of the data, for the card")
    parser.add_argument("--track", metavar="EXPERIMENT", help="log the training to this experiment of MLflow")
    parser.add_argument("--uri", help="MLflow store; default: mlflow.db in --output")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the store, as paths.output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
