"""``robustalign data``: show how a file of people's comparisons would be read and trained on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustalign.cli.errors import one_line_errors
from robustalign.errors import ConfigError

if TYPE_CHECKING:
    from robustalign.config import Config
    from robustalign.data.detect import Guess
    from robustalign.data.examine import DataFacts
    from robustalign.data.files import Row

HELP = """\
Look at people's comparisons as they would be read, before anything is trained.

  robustalign data check PATH [KEY=VALUE ...]   what the file holds, and every row that is not right
  robustalign data show PATH [n=3] [KEY=VALUE ...]   pairs as they are trained on

PATH is a hub id, a folder, a file or a glob of .jsonl .json .csv .tsv .parquet (also .gz). KEY=VALUE are those of
robustalign train: dataset=PRESET, dataset.format, 'dataset.fields={...}', model=..., model.path=... . Without a format
the columns are looked at, and a yaml is suggested.
"""
SAMPLE = 200  # rows from which the format is guessed
MOST = 12  # groups of a column that are shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``check`` or ``show``. Returns the exit code: 1 where a row cannot be read."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0 if words else 2
    with one_line_errors():
        command, *rest = words
        if command not in ("check", "show"):
            raise ConfigError(command, "unknown command; choose one of: check, show")
        if not rest or "=" in rest[0]:
            raise ConfigError("PATH", f"is missing; write: robustalign data {command} PATH")
        return check(rest[0], rest[1:]) if command == "check" else show(rest[0], rest[1:])
    return 2


def check(path: str, words: Sequence[str]) -> int:
    """Print the facts about a file; the exit code is 1 if a row cannot be read."""
    from robustalign.data.examine import examine

    config, guess = _config(path, words)
    facts = examine(config.dataset, _encoder(config))
    _print_facts(config, facts)
    if guess is not None:
        _print_suggestion(config, guess)
    return 1 if facts.bad else 0


def show(path: str, words: Sequence[str]) -> int:
    """Print the first comparisons as the policy sees them."""
    import itertools

    from robustalign.data.examine import rendered
    from robustalign.data.reading import Reading

    counts = [word.partition("=")[2] for word in words if word.startswith("n=")]
    if counts and not counts[-1].isdigit():
        raise ConfigError("n", f"{counts[-1]!r} is not a number of pairs")
    config, _ = _config(path, [word for word in words if not word.startswith("n=")])
    encoder = _encoder(config)
    for pair in itertools.islice(Reading(config.dataset).comparisons(), int(counts[-1]) if counts else 3):
        prompt, replies = rendered(list(pair.prompt.turns), [list(pair.chosen), list(pair.rejected)], encoder)
        soft = "" if pair.soft_label is None else f", {pair.soft_label:.3g} of {pair.weight:g} votes for chosen"
        print(f"── {pair.row}{soft}")
        print(f"prompt ({len(prompt)} tokens)\n{encoder.tokenizer.decode(prompt)}⏐")
        for name, ids in zip(("chosen", "rejected"), replies, strict=True):
            long = " — longer than model.max_length" if len(prompt) + len(ids) > config.model.max_length else ""
            print(f"{name} ({len(ids)} tokens, {len(prompt) + len(ids)} with the prompt{long})")
            print(f"⏐{encoder.tokenizer.decode(ids)}")
        if pair.columns:
            print(", ".join(f"{name}: {value or '(nothing)'}" for name, value in pair.columns.items()))
    print("⏐ is the border of prompt and reply; what stands before it is not trained on")
    return 0


def _config(path: str, words: Sequence[str]) -> tuple[Config, Guess | None]:
    """The composed config; where no format is named, the one that the columns suggest."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from robustalign.checks import resolve
    from robustalign.cli.train import check_choices
    from robustalign.config import config_dir, register
    from robustalign.data import detect
    from robustalign.data.files import parts
    from robustalign.sweeps.hydra import replaced

    register()
    check_choices(list(words))
    preset = next((word for word in words if word.startswith("dataset=")), "dataset=preferences")
    rest = [word for word in words if not word.startswith("dataset=")]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("config", overrides=[preset, *replaced(rest)])
    OmegaConf.update(composed, "dataset.path", path)
    names_format = any(word.startswith(("dataset.format=", "dataset.fields")) for word in rest)
    config = resolve(composed)
    if names_format or preset != "dataset=preferences":
        return config, None
    data = config.dataset
    data_parts = parts(data.path, subset=data.subset, folder=data.data_dir, revision=data.revision)
    rows = _sample(data_parts)
    guess = detect.guess(rows)
    if guess is None:
        columns = ", ".join(dict.fromkeys(name for row in rows for name in row)) or "none"
        problem = f"nothing that is known fits the columns ({columns}); say dataset.format and dataset.fields"
        raise ConfigError("dataset.format", problem)
    words_of_guess = set(str(guess.settings).replace("'", " ").replace(".", " ").split())
    guess.settings["columns"] = {name: name for name in detect.columns_to_carry(rows, words_of_guess)} | data.columns
    for name, value in guess.settings.items():
        setattr(data, name, value)
    return config, guess


def _sample(data_parts: Sequence[Any]) -> list[Row]:
    import itertools

    from robustalign.data.files import BadRow

    rows = (row for part in data_parts for row in part.read() if not isinstance(row, BadRow))
    return list(itertools.islice(rows, SAMPLE))


def _encoder(config: Config) -> Any:
    from robustalign.pipeline.stages import Stages

    return Stages(config).encoder


def _print_facts(config: Config, facts: DataFacts) -> None:
    account, data = facts.account, config.dataset
    print(f"format      {data.format}; fields: {data.fields or 'by their usual names'}")
    print(f"rows        {account.read:,} read, {facts.comparisons:,} comparisons of {facts.prompts:,} prompts")
    rows_of_splits = "; ".join(f"{name} {split['kept']:,}" for name, split in account.splits.items())
    print(f"splits      {rows_of_splits}" + (f"; not used: {', '.join(account.unused)}" if account.unused else ""))
    for name, split in account.splits.items():
        for reason, count in split["dropped"].items():
            first = f" (first: {split['first'][reason]})" if reason in split["first"] else ""
            print(f"dropped     {name}: {count:,} {reason}{first}")
    print(f"duplicates  {facts.repeated:,} repeat a comparison, {facts.contrary:,} contradict one")
    print(f"turns       {'; '.join(f'{roles}: {count:,}' for roles, count in facts.roles.most_common(5))}")
    for name, lengths in facts.lengths.items():
        if len(lengths):
            line = "/".join(str(int(q)) for q in _quantiles(lengths))
            print(f"tokens      {name}: {line} (5 %, median, 95 %, most of {len(lengths):,})")
    if len(facts.lengths["prompt"]):
        longest = facts.lengths["prompt"] + [max(pair) for pair in zip(*_replies(facts), strict=True)]
        print(f"too long    {int((longest > config.model.max_length).sum()):,} beyond {config.model.max_length} tokens")
    for name, values in facts.values.items():
        line = ", ".join(f"{value or '(nothing)'} {count:,}" for value, count in values.most_common(MOST))
        print(f"column      {name}: {len(values):,} values: {line}{', …' if len(values) > MOST else ''}")
    for where, problem in facts.bad:
        print(f"bad row     {where}: {problem}")


def _replies(facts: DataFacts) -> tuple[Any, Any]:
    return facts.lengths["chosen"], facts.lengths["rejected"]


def _quantiles(lengths: Any) -> Any:
    import numpy as np

    return np.quantile(lengths, [0.05, 0.5, 0.95, 1.0], method="lower")


def _print_suggestion(config: Config, guess: Guess) -> None:
    """A preset that reads the data so."""
    import yaml

    settings = {"name": config.dataset.name, "path": config.dataset.path, **guess.settings}
    print("\nsuggested   conf/dataset/NAME.yaml, or the same in a folder of your own with --config-dir:")
    for doubt in guess.doubts:
        print(f"# look: {doubt}")
    print("defaults:\n  - preferences\n  - _self_")
    print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")


if __name__ == "__main__":
    sys.exit(main())
