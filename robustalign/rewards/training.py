"""Training a reward model on labelled texts: a sequence classifier that ``scorer: classifier`` reads.

Three kinds of labels: several at once (sigmoid, binary cross-entropy), one of several (softmax, cross-entropy), and
which of two texts is better (Bradley-Terry, one logit). The epoch is chosen by validation loss; what the model is worth
on held-out texts says ``robustalign.rewards.held_out``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

MULTI, SINGLE, PAIRS = "multi_label", "single_label", "pairs"
KINDS = (MULTI, SINGLE, PAIRS)
SMALL = "small"  # an encoder of 1.4 M parameters, trained from nothing


@dataclass(frozen=True)
class Examples:
    """``N`` texts with targets: ``[N, L]`` of 0 and 1 (multi_label) or ``[N]`` label numbers (single_label).

    For pairs ``texts`` are the better ones and ``others`` the worse, and there are no targets.
    """

    texts: Sequence[str]
    targets: np.ndarray | None = None
    others: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Recipe:
    """How a reward model is trained."""

    kind: str
    labels: Sequence[str]
    base: str = SMALL
    epochs: int = 6
    learning_rate: float = 1e-3
    batch_size: int = 64
    max_length: int = 64
    seed: int = 0
    join: int = 1  # up to so many random texts become one, with the union of their labels (multi_label)
    vocabulary: int = 8192  # of the small encoder's tokenizer
    dropout: float = 0.2


@dataclass
class Trained:
    """A reward model of the best epoch."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    epoch: int
    curve: list[dict[str, float]] = field(default_factory=list)
    """Per epoch: train and validation loss."""

    def save(self, folder: Path) -> None:
        """``save_pretrained``, weights in half precision."""
        self.model.half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def train(recipe: Recipe, training: Examples, validation: Examples, progress: bool = False) -> Trained:
    """Train, and keep the epoch of the least validation loss.

    Raises:
        ValueError: an unknown kind, or a loss that is not finite.
    """
    if recipe.kind not in KINDS:
        raise ValueError(f"kind: {recipe.kind!r} is none of {', '.join(KINDS)}")
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model, tokenizer = base_model(recipe, training)
    encode = encoder(tokenizer, recipe.max_length)
    steps = recipe.epochs * -(-len(training) // recipe.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps, pct_start=0.1)
    best, trained = float("inf"), Trained(model, tokenizer, 0)
    for epoch in range(1, recipe.epochs + 1):
        examples = joined_texts(training, recipe.join, rng) if recipe.kind == MULTI else training
        order = rng.permutation(len(examples))
        batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
        losses = []
        model.train()
        for rows in tqdm(batches, desc=f"epoch {epoch} of {recipe.epochs}", disable=not progress, leave=False):
            loss = _loss(model, encode, examples, rows, recipe.kind)
            if not torch.isfinite(loss):
                raise ValueError(f"learning_rate: the loss is {float(loss.detach())} in epoch {epoch}; lower it")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        held_out = validation_loss(model, encode, validation, recipe)
        trained.curve.append({"epoch": epoch, "train_loss": float(np.mean(losses)), "validation_loss": held_out})
        if held_out < best:
            best, trained.epoch, trained.model = held_out, epoch, copy.deepcopy(model)
    trained.model.eval()
    return trained


def base_model(recipe: Recipe, training: Examples) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What training starts from: a checkpoint with a fresh head, or the small encoder."""
    names = dict(enumerate(["better"] if recipe.kind == PAIRS else recipe.labels))
    heads: dict[str, Any] = {"num_labels": len(names), "id2label": names, "label2id": {v: k for k, v in names.items()}}
    kinds = {MULTI: "multi_label_classification", SINGLE: "single_label_classification"}
    heads["problem_type"] = kinds.get(recipe.kind)
    if recipe.base != SMALL:
        options: dict[str, Any] = {"trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(recipe.base, **options)
        model = AutoModelForSequenceClassification.from_pretrained(
            recipe.base, use_safetensors=True, dtype=torch.float32, **heads, **options
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
        return model, tokenizer
    tokenizer = small_tokenizer([*training.texts, *training.others], recipe.vocabulary)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=max(128, recipe.max_length), hidden_dropout_prob=recipe.dropout,
        attention_probs_dropout_prob=0.0, pad_token_id=tokenizer.pad_token_id, **heads,
    )  # fmt: skip
    return BertForSequenceClassification(config), tokenizer


def small_tokenizer(texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    """Lower-cased WordPiece of these texts, in BERT's format."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special))
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def joined_texts(examples: Examples, most: int, rng: np.random.Generator) -> Examples:
    """As many texts, each one to ``most`` random ones in a row, with the union of their labels (arXiv 2502.01930,
    section 7.1, where ``most`` is three)."""
    assert examples.targets is not None
    if most == 1:
        return examples
    counts = rng.integers(1, most + 1, len(examples))
    rows = [rng.integers(len(examples), size=count) for count in counts]
    texts = [" ".join(examples.texts[i] for i in chosen) for chosen in rows]
    return Examples(texts, np.array([examples.targets[chosen].max(0) for chosen in rows]))


Encode = Callable[[Sequence[str]], Any]


def encoder(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encode:
    """Texts to padded inputs of a model; longer ones keep their start."""
    return lambda texts: tokenizer(
        list(texts), padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )


def _loss(model: PreTrainedModel, encode: Encode, examples: Examples, rows: np.ndarray, kind: str) -> Tensor:
    logits = model(**encode([examples.texts[i] for i in rows])).logits
    if kind == PAIRS:
        others = model(**encode([examples.others[i] for i in rows])).logits
        return -nn.functional.logsigmoid(logits - others).mean()
    assert examples.targets is not None
    targets = torch.from_numpy(np.asarray(examples.targets[rows]))
    if kind == SINGLE:
        return nn.functional.cross_entropy(logits, targets.long())
    return nn.functional.binary_cross_entropy_with_logits(logits, targets.to(logits))


@torch.no_grad()
def validation_loss(model: PreTrainedModel, encode: Encode, examples: Examples, recipe: Recipe) -> float:
    """The mean loss of held-out examples."""
    model.eval()
    size, total = 4 * recipe.batch_size, 0.0
    for start in range(0, len(examples), size):
        rows = np.arange(start, min(start + size, len(examples)))
        total += float(_loss(model, encode, examples, rows, recipe.kind)) * len(rows)
    return total / len(examples)
