#!/usr/bin/env python
"""Train the shipped tiny chat policy from scratch, on the training conversations alone.

    python scripts/pretrain_tiny.py --output robustalign/assets/chitchat_tiny

A byte-level BPE tokenizer and a Llama-architecture model of 1.3 M parameters. Every epoch cuts
the conversations anew into windows of two to six turns, so that the model often sees what it is
asked for later: one turn, then the reply. Validation conversations only measure. Killed runs
resume from the last checkpoint under ``--work``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from robustalign.data.sources.chitchat import Conversation, conversations

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{{ eos_token }}{% endfor %}"
LENGTH = 128  # tokens a training row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--work", type=Path, default=Path("outputs/pretrain_tiny"), help="checkpoints go here")
    parser.add_argument("--steps", type=int, default=5000, help="optimiser steps of 32 x 128 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_seed(args.seed)

    train = [chat for chat in conversations() if chat.split == "train"]
    validation = [chat for chat in conversations() if chat.split == "validation"]
    tokenizer = build_tokenizer(train)
    rows = training_rows(train, tokenizer, count=args.steps * 32, seed=args.seed)
    held_out = Rows(np.stack(list(windows_to_rows(validation, tokenizer, random.Random(0)))))
    model = LlamaForCausalLM(architecture(tokenizer))

    trainer = Trainer(
        model=model,
        args=arguments(args),
        train_dataset=rows,
        eval_dataset=held_out,
        callbacks=[InOrder()],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(args.work)) if args.work.exists() else None)
    history = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    save(model, tokenizer, args, history, tokens_per_word(validation, tokenizer))


def build_tokenizer(chats: list[Conversation], size: int = 4096) -> PreTrainedTokenizerFast:
    """Lower-casing byte-level BPE, learnt on the training conversations."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((turn for chat in chats for turn in chat.turns), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = 256
    return tokenizer


def architecture(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def windows_to_rows(chats: list[Conversation], tokenizer: PreTrainedTokenizerFast, rng: random.Random):
    """One epoch of ``[LENGTH]`` int32 rows: windows of 2-6 turns, each after a BOS, laid end to end."""
    order = list(chats)
    rng.shuffle(order)
    stream: list[int] = []
    for chat in order:
        turns = tokenizer(list(chat.turns), add_special_tokens=False)["input_ids"]
        start = 0
        while start < len(turns) - 1:
            stop = min(len(turns), start + rng.randint(2, 6))
            stream.append(tokenizer.bos_token_id)
            for turn in turns[start:stop]:
                stream += [*turn[: LENGTH // 2], tokenizer.eos_token_id]
            start = stop - 1 if rng.random() < 0.5 else stop
        while len(stream) >= LENGTH:
            yield np.array(stream[:LENGTH], dtype=np.int32)
            del stream[:LENGTH]


class Rows(Dataset):
    """Token rows ``[n, LENGTH]`` as causal language-model examples."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.ids[index].astype(np.int64))
        return {"input_ids": ids, "labels": ids}


def training_rows(chats: list[Conversation], tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Rows:
    rng = random.Random(seed)
    rows: list[np.ndarray] = []
    while len(rows) < count:
        epoch = list(windows_to_rows(chats, tokenizer, rng))
        rng.shuffle(epoch)
        print(f"epoch of {len(epoch) * LENGTH:,} tokens", flush=True)
        rows += epoch
    return Rows(np.stack(rows[:count]))


def arguments(args: argparse.Namespace) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(args.work),
        max_steps=args.steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=32,
        learning_rate=4e-3,
        weight_decay=0.1,
        adam_beta2=0.95,
        warmup_steps=100,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        max_grad_norm=1.0,
        eval_strategy="steps",
        eval_steps=250,
        save_steps=250,
        save_total_limit=2,
        logging_steps=50,
        report_to=[],
        use_cpu=True,
        train_sampling_strategy="sequential",
        seed=args.seed,
    )


class InOrder(TrainerCallback):
    """Prints the validation loss as it falls, for logs without a terminal."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        print(f"step {state.global_step}: validation loss {metrics['eval_loss']:.4f}", flush=True)


def tokens_per_word(chats: list[Conversation], tokenizer: PreTrainedTokenizerFast) -> float:
    """Tokens (each turn's EOS counted) per whitespace-separated word."""
    turns = [turn for chat in chats for turn in chat.turns]
    tokens = sum(len(ids) + 1 for ids in tokenizer(turns, add_special_tokens=False)["input_ids"])
    return tokens / sum(len(turn.split()) for turn in turns)


def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, count: int = 10) -> list[tuple[str, str]]:
    """Replies to the first turns of ``count`` validation conversations (top-k 64, temperature 1)."""
    torch.manual_seed(0)
    model.eval()
    found = []
    for chat in [chat for chat in conversations() if chat.split == "validation"][:count]:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": chat.turns[0]}], return_tensors="pt", return_dict=True
        )
        ids = model.generate(**prompt, do_sample=True, top_k=64, max_new_tokens=24, pad_token_id=0)
        found.append(
            (chat.turns[0], tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
        )
    return found


def save(model, tokenizer, args: argparse.Namespace, history: list[dict], rate: float) -> None:
    """Write weights in fp16 safetensors, tokenizer, training record and model card, then swap them in."""
    staging = args.output.with_name(args.output.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    replies = samples(model, tokenizer)
    model.half().save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    record = {
        "steps": args.steps,
        "tokens": args.steps * 32 * LENGTH,
        "seed": args.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "validation_loss": history[-1]["eval_loss"],
        "validation_perplexity_per_token": math.exp(history[-1]["eval_loss"]),
        "validation_perplexity_per_word": math.exp(history[-1]["eval_loss"] * rate),
        "validation_curve": {entry["step"]: round(entry["eval_loss"], 4) for entry in history},
    }
    (staging / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    (staging / "README.md").write_text(card(record, replies))
    shutil.rmtree(args.output, ignore_errors=True)
    staging.rename(args.output)


def card(record: dict, replies: list[tuple[str, str]]) -> str:
    dialogue = "\n".join("| " + " | ".join(text.replace("|", "/").strip() for text in pair) + " |" for pair in replies)
    return f"""# chitchat_tiny

A Llama-architecture chat model of {record["parameters"]:,} parameters (vocabulary 4,096, width 128, 4 layers,
4 heads over 2 key-value heads, tied embeddings), trained from scratch on the training conversations of
`chitchat-dataset` 0.9.0 (MIT) by `scripts/pretrain_tiny.py --steps {record["steps"]} --seed {record["seed"]}`.
It exists so that experiments with many seeds take seconds a run; its English is fragmentary.

| measure | value |
|---|---|
| training tokens | {record["tokens"]:,} |
| validation loss per token | {record["validation_loss"]:.4f} |
| validation perplexity per token | {record["validation_perplexity_per_token"]:.1f} |
| validation perplexity per word | {record["validation_perplexity_per_word"]:.0f} |

Validation is on conversations that neither the model nor its tokenizer has seen. Weights are stored in fp16
and are meant to be loaded as fp32. Format: `<bos>turn<eos>reply<eos>`; text is lower-cased.

Ten replies to first turns of validation conversations (top-k 64, temperature 1, seed 0, not chosen):

| turn | reply |
|---|---|
{dialogue}
"""


if __name__ == "__main__":
    main()
