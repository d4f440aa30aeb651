"""Where a prompt ends and a reply begins."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from robustalign.errors import ConfigError
from robustalign.policies.encode import Encoder, Unrenderable


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


SYSTEM = {"role": "system", "content": "be kind"}


@pytest.fixture
def encoder(tokenizer) -> Encoder:
    return Encoder(tokenizer)


def test_one_bos_first_and_one_eos_after_the_turn(encoder) -> None:
    ids, tokenizer = encoder.prompt(chat("how are you?")), encoder.tokenizer
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_reply_ends_in_exactly_one_eos(encoder) -> None:
    ids, tokenizer = encoder.reply(chat("how are you?"), reply("fine, thanks")), encoder.tokenizer
    assert ids[-1] == tokenizer.eos_token_id and ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.bos_token_id not in ids


def test_the_boundary_is_exact(encoder) -> None:
    """The prompt's ids are a prefix of the conversation's, so no merge crosses the border."""
    turns = ["do you like tea?", "yes, and you?"]
    first = chat(turns[0])
    assert encoder.prompt(chat(*turns)) == encoder.prompt(first) + encoder.reply(first, reply(turns[1]))


def test_no_merge_crosses_the_border() -> None:
    """Where one would, the reply is encoded by itself; the prompt's ids are the same whatever the reply."""
    base = Tokenizer(models.BPE({"</s>": 0, "a": 1, "b": 2, "ab": 3}, [("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    encoder = Encoder(tokenizer)
    assert encoder.prompt(chat("a")) == [1]
    assert encoder.reply(chat("a"), reply("b")) == [2, 0]
    assert encoder.reply(chat("a"), reply("ab")) == [3, 0]


def test_text_survives(encoder) -> None:
    assert encoder.text(encoder.reply(chat("hi"), reply("what about you?"))) == "what about you?"


def without_bos() -> PreTrainedTokenizerFast:
    base = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "hello": 2}, unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=base, eos_token="</s>", unk_token="<unk>")


def test_a_tokenizer_without_bos_or_template() -> None:
    bare = Encoder(without_bos())
    assert bare.prompt(chat("hello")) == [2]
    assert bare.reply(chat("hello"), reply("hello")) == [2, 1]
    assert bare.prompt(chat("hello", "hello", "hello")) == [2, 2, 2]
    assert bare.reply(chat("hello"), reply("</s> hello")) == [0, 2, 1], "a spelt EOS is an unknown word"
    with pytest.raises(Unrenderable, match="no token"):
        bare.prompt(chat(""))
    with pytest.raises(Unrenderable, match="turn of 'tool' needs a chat template"):
        bare.prompt([*chat("hello"), {"role": "tool", "content": "hello"}])


def test_a_system_prompt_stands_before_prompts_that_have_none(encoder) -> None:
    kind = Encoder(encoder.tokenizer, "be kind")
    assert kind.prompt(chat("hi")) == encoder.prompt([SYSTEM, *chat("hi")]) != encoder.prompt(chat("hi"))
    own = [{"role": "system", "content": "be terse"}, *chat("hi")]
    assert kind.prompt(own) == encoder.prompt(own)
    assert kind.reply(chat("hi"), reply("yes")) == encoder.reply(chat("hi"), reply("yes"))


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}",
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}",
    ],
    ids=["no template", "refused", "left out"],
)
def test_a_system_prompt_that_cannot_be_shown_is_refused(template) -> None:
    bare = without_bos()
    bare.chat_template = template
    with pytest.raises(ConfigError, match=r"^model.system_prompt: this model cannot take a system turn"):
        Encoder(bare, "be kind").prompt(chat("hello"))


def test_a_template_whose_turns_end_in_no_token() -> None:
    bare = without_bos()
    bare.chat_template = "{% for m in messages %}{{ m.content }}\n\n{% endfor %}"
    assert Encoder(bare).reply(chat("hello"), reply("hello")) == [2, 1], "EOS takes the place of white space"
    bare.chat_template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(
        ConfigError, match=r"model.path: the chat template ends a turn with '<\|im_end\|>', which is no"
    ):
        Encoder(bare).reply(chat("hello"), reply("hello"))


def test_pad_or_unk_within_a_reply_cut_nothing() -> None:
    """With pad = unk an unknown word is the pad token; with pad = EOS a reply still has one end."""
    bare = without_bos()
    for pad in ("<unk>", "</s>"):
        bare.pad_token = pad
        assert Encoder(bare).reply(chat("hello"), reply("hello unheard hello")) == [2, 0, 2, 1]
