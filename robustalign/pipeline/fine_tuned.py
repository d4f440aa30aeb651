"""The stage ``sft``: a model that was fine-tuned on the data's own texts, which is then policy and reference.

As in arXiv 2502.01930, section 7.1: the texts of the training split as they are, without a chat template; the result
has none either, so that its prompts are the beginnings of texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robustalign.config import Config
from robustalign.data.candidates import texts_key, texts_of
from robustalign.data.rows import Rows
from robustalign.errors import ConfigError
from robustalign.pipeline import inputs
from robustalign.policies.encode import Encoder
from robustalign.policies.load import load_model, load_tokenizer
from robustalign.training.fine_tune import fine_tune, next_token_loss

FACTS = "sft.json"
HELD_OUT = 500  # validation texts on which the loss before and after is measured


def key(config: Config) -> dict[str, Any]:
    """All that the result depends on: the base, the options and the texts."""
    model, texts = config.model, {"source": config.dataset.source, **texts_key(config.dataset)}
    facts = {"version": 1, "base": inputs.model(config), "dtype": model.dtype, "max_length": model.max_length}
    return facts | {"options": asdict(model.sft), "texts": texts}


def build(base: str, config: Config, rows: Rows | None, device: Any, target: Path) -> None:
    """Fine-tune ``base`` and save it in ``target`` with its tokenizer and :data:`FACTS`.

    Raises:
        ConfigError: there is no text, or the loss is not finite.
    """
    tokenizer = load_tokenizer(base, config.model.revision)
    tokenizer.chat_template = None
    encoder = Encoder(tokenizer)
    training, validation = (
        _encoded(texts_of(config, split, rows), encoder, config.model.max_length) for split in ("train", "validation")
    )
    if not training:
        raise ConfigError("model.sft.epochs", "the training split has no text of two tokens or more to learn from")
    model = load_model(base, config.model, device)
    held_out, pad = validation[:HELD_OUT], encoder.pad
    before = next_token_loss(model, held_out, pad=pad) if held_out else None
    losses = fine_tune(model, training, config.model.sft, pad=pad)
    after = next_token_loss(model, held_out, pad=pad) if held_out else None
    facts = {"texts": len(training), "steps": len(losses), "before": before, "after": after, "losses": losses}
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / FACTS).write_text(json.dumps(facts) + "\n")


def figures(folder: Path) -> dict[str, float]:
    """What is logged of a fine-tuned model: texts, steps, and the held-out loss before and after, nats a token."""
    if not (folder / FACTS).is_file():
        return {}
    facts = json.loads((folder / FACTS).read_text())
    return {
        f"sft/{name}": float(facts[name]) for name in ("texts", "steps", "before", "after") if facts[name] is not None
    }


def losses(folder: Path) -> list[float]:
    """The training loss of each step of a fine-tuned model, nats a token; empty of any other."""
    file = folder / FACTS
    return json.loads(file.read_text())["losses"] if file.is_file() else []


def _encoded(texts: Sequence[str], encoder: Encoder, longest: int) -> list[list[int]]:
    """Texts as ids, cut at ``longest``; those that fit end in the token that ends a text."""
    rows = ([*encoder.prompt([{"role": "user", "content": text}]), encoder.end] for text in texts if text.strip())
    return [row[:longest] for row in rows if len(row) > 2]
