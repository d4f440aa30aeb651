"""The account of the data's rows, printed before a model computes anything, and one pair as it is trained on."""

from __future__ import annotations

import json

from transformers import PreTrainedTokenizerBase

from robustalign.config import Config
from robustalign.data.given import ACCOUNT
from robustalign.data.pairs import TrainingRows
from robustalign.data.reading import Account, by_reason
from robustalign.pipeline.stages import Stages, splits


def told_of_rows(config: Config, account: Account) -> list[str]:
    """The lines that a launch prints: rows read, rows kept of each split, and rows dropped, by reason."""
    parts = [f"{split} {account.splits[split]['kept']:,}" for split in splits(config)]
    lines = [f"{config.dataset.name}: {account.read:,} rows read; comparisons or prompts: {', '.join(parts)}"]
    for split in splits(config):
        if reasons := account.reasons(split):
            lines.append(f"{config.dataset.name}: dropped of {split}: {reasons}")
    if account.unused:
        lines.append(f"{config.dataset.name}: splits of the data that are not used: {', '.join(account.unused)}")
    return lines


def tell_splits(stages: Stages) -> dict[str, float]:
    """Print how many rows of each split became candidates, and why others did not; returns the same as metrics."""
    metrics: dict[str, float] = {}
    for split in splits(stages.config):
        facts = json.loads((stages.candidates_folder(split) / ACCOUNT).read_text())
        dropped = f"; dropped: {by_reason(facts['dropped'], facts['first'])}" if facts["dropped"] else ""
        print(f"{split}: {facts['kept']:,} kept of {facts['read']:,} rows of all splits{dropped}", flush=True)
        metrics |= {"data/rows/read": float(facts["read"]), f"data/rows/{split}": float(facts["kept"])}
        for reason, count in facts["dropped"].items():
            metrics[f"data/dropped/{split}/{reason.replace(' ', '_')}"] = float(count)
    return metrics


def tell_pairs(rows: TrainingRows, tokenizer: PreTrainedTokenizerBase) -> None:
    """Print how many pairs are trained on, for how many epochs, and the first of them as the policy sees it."""
    print(f"training: {len(rows.pairs):,} pairs, {rows.epochs:.3g} epochs; the first pair:")
    example = rows[0]
    for name in ("prompt", "chosen", "rejected"):
        print(f"  {name:9}{tokenizer.decode(example[name])!r} ({len(example[name])} tokens)", flush=True)
