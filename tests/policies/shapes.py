"""Tokenizers in the shapes of real models' (special tokens, blanks, kind of model) with their chat templates."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "how are you today?",
    "fine, thanks. and you?",
    "    return x\n",
    "what ends a turn",
    "12 degrees, I think",
] * 3
BYTES = [f"<0x{i:02X}>" for i in range(256)]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    + CHATML.partition("%}")[2]
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Shape:
    """``end``: what ends a turn. ``ends``: what sampling stops at, without a word from a generation config."""

    kind: str
    template: str
    bos: str | None
    eos: str
    specials: tuple[str, ...]
    end: str
    rstrip: bool = False


def of_trl(name: str) -> str:
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.submodule_search_locations is not None
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
GEMMA = ("<start_of_turn>", "<end_of_turn>")
QWEN = ("<|im_start|>", "<|im_end|>")
PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
SHAPES = {
    "llama3": Shape("bytes", of_trl("llama3"), "<|begin_of_text|>", "<|end_of_text|>", LLAMA3, "<|eot_id|>"),
    "gemma": Shape("gemma", of_trl("gemma"), "<bos>", "<eos>", GEMMA, "<end_of_turn>"),
    "gemma3": Shape("gemma", of_trl("gemma3"), "<bos>", "<eos>", GEMMA, "<end_of_turn>"),
    "qwen3": Shape("bytes", of_trl("qwen3"), None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>"), "<|im_end|>"),
    "chatml_on_a_base": Shape("bytes", CHATML, None, "<|endoftext|>", QWEN, "<|im_end|>"),
    "mistral": Shape("llama", MISTRAL, "<s>", "</s>", (), "</s>"),
    "phi3": Shape("llama", of_trl("phi3"), "<s>", "<|endoftext|>", PHI3[:-1], "<|end|>", rstrip=True),
    "smollm2": Shape("bytes", SMOLLM2, None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>"), "<|im_end|>"),
    "unigram": Shape("unigram", CHATML, "<s>", "</s>", QWEN, "<|im_end|>"),
}


def build(shape: Shape) -> PreTrainedTokenizerFast:
    core = {"bytes": byte_level, "llama": llama_like, "gemma": gemma_like, "unigram": unigram}[shape.kind](shape)
    # as in Phi-3, whose special tokens swallow the white space behind them
    special = [AddedToken(t, rstrip=shape.rstrip, normalized=False, special=True) for t in shape.specials]
    core.add_special_tokens(special)
    core.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=shape.bos, eos_token=shape.eos, clean_up_tokenization_spaces=False
    )
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = shape.template
    return tokenizer


def first(shape: Shape) -> list[str]:
    return [token for token in ("<unk>", shape.bos, shape.eos) if token]


def byte_level(shape: Shape) -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=first(shape), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return core


def llama_like(shape: Shape) -> Tokenizer:
    """BPE over words behind a ``▁``, with a blank before a text's beginning and bytes for what is unknown."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*first(shape), *BYTES], show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return with_bytes_as_text(core)


def gemma_like(shape: Shape) -> Tokenizer:
    """As Llama's, without the blank before a text."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*first(shape), *BYTES], show_progress=False)
    core.train_from_iterator(TEXTS, trainer)
    return with_bytes_as_text(core)


def with_bytes_as_text(core: Tokenizer) -> Tokenizer:
    """The pieces of single bytes, which only a trainer takes for special tokens, are pieces like others."""
    spec = json.loads(core.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(spec))


def unigram(shape: Shape) -> Tokenizer:
    """Whose vocabulary itself holds the special tokens, as pieces of text."""
    letters = sorted(
        {letter for text in [*TEXTS, "<>/|_0123456789abcdefghijklmnopqrstuvwxyz.,?!\n"] for letter in text}
    )
    pieces = [(token, 0.0) for token in first(shape)] + [(letter, -4.0) for letter in ["▁", *letters]]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    return core
