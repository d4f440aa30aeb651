"""What a chat template makes of messages is what is trained on, for the templates and tokenizers of real models."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from robustalign.policies.encode import Encoder, Unrenderable
from tests.policies.shapes import CHATML, SHAPES, Shape, build

NAMES = list(SHAPES)
BYTE_LEVEL = [name for name, shape in SHAPES.items() if shape.kind == "bytes"]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module", params=NAMES)
def shaped(request) -> tuple[Shape, Encoder]:
    shape = SHAPES[request.param]
    return shape, Encoder(build(shape))


def rendered(encoder: Encoder, messages: list[dict[str, str]]) -> str:
    return encoder.tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_reply_ends_in_the_token_that_ends_a_turn(shaped) -> None:
    shape, encoder = shaped
    end, eos = (encoder.tokenizer.convert_tokens_to_ids(token) for token in (shape.end, shape.eos))
    assert encoder.end == end and encoder.ends == {end, eos}
    reply = encoder.reply([user("how are you?")], [assistant("fine, thanks")])
    special = set(encoder.tokenizer.all_special_ids) | {end}
    assert reply[-1] == end and not special & set(reply[:-1])
    assert encoder.text(reply).strip() == "<think>\n\n</think>\n\nfine, thanks".removeprefix(
        "" if shape is SHAPES["qwen3"] else "<think>\n\n</think>\n\n"
    )


def test_the_ids_are_those_of_the_whole_conversation(shaped) -> None:
    """As the model's own tokenizer writes it, up to the end of the last turn."""
    _, encoder = shaped
    talk = [user("how are you?"), assistant("fine, thanks"), user("what ends a turn")]
    ids = encoder.prompt(talk) + encoder.reply(talk, [assistant("12 degrees")])
    whole = encoder.tokenizer(rendered(encoder, [*talk, assistant("12 degrees")]), add_special_tokens=False)[
        "input_ids"
    ]
    assert ids == whole[: len(ids)]
    assert len(whole) - len(ids) <= 3, "no more than white space, and the EOS that Phi-3 puts behind a conversation"
    behind = encoder.tokenizer.decode(whole[len(ids) :], skip_special_tokens=True)
    assert not behind.strip()


@pytest.mark.parametrize("text", ["the token {} ends", "{}", "{}{} twice", "a {}\n"])
def test_a_spelt_special_token_is_text(shaped, text: str) -> None:
    """Every special token, in prompt and reply: the template's own are all there are, and the letters come back."""
    shape, encoder = shaped
    tokenizer = encoder.tokenizer
    for token in {shape.eos, shape.end, *shape.specials, *([shape.bos] if shape.bos else [])}:
        spelt = text.replace("{}", token)
        inside = encoder.prompt([user(spelt)]), encoder.reply([user("hi")], [assistant(spelt)])
        plain = encoder.prompt([user("hi")]), encoder.reply([user("hi")], [assistant("yes")])
        for ids, other in zip(inside, plain, strict=True):
            special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
            assert [i for i in ids if i in special] == [i for i in other if i in special], (token, ids)
        if shape.kind != "unigram":  # which writes <unk> for letters it has no piece of
            for ids in inside:
                letters = tokenizer.decode([i for i in ids if i not in special])
                assert spelt.strip() in letters, (token, letters)


@pytest.mark.parametrize("name", [name for name in NAMES if "| trim" not in SHAPES[name].template])
@pytest.mark.parametrize("text", ["    return x", " blue", "\tx", "red \n", "how are you? fine"])
def test_blanks_and_beginnings_stay(name: str, text: str) -> None:
    """Also behind special tokens that swallow white space, and where the reply begins as its prompt does."""
    shape = SHAPES[name]
    encoder = Encoder(build(shape))
    if shape.kind == "unigram" and "\t" in text:
        pytest.skip("this vocabulary has no tab")
    prompt = [user("how are you?")]
    ids = encoder.prompt(prompt) + encoder.reply(prompt, [assistant(text)])
    assert encoder.tokenizer.decode(ids).endswith(text + shape.end)


def test_roles_that_a_template_refuses_or_leaves_out() -> None:
    system = {"role": "system", "content": "be kind"}
    tool = {"role": "tool", "content": "12 degrees"}
    with pytest.raises(Unrenderable, match="System role not supported"):
        Encoder(build(SHAPES["gemma"])).prompt([system, user("hi")])
    with pytest.raises(Unrenderable, match="roles must alternate"):
        Encoder(build(SHAPES["mistral"])).prompt([user("one"), user("two")])
    with pytest.raises(Unrenderable, match="leaves out the turn of 'tool'"):
        Encoder(build(SHAPES["phi3"])).prompt([user("how warm?"), assistant("let me look"), tool])
    gemma3 = Encoder(build(SHAPES["gemma3"]))
    assert "be kind\n\nhi" in gemma3.tokenizer.decode(gemma3.prompt([system, user("hi")]))


def test_thinking_is_kept_in_the_reply_and_dropped_from_earlier_turns() -> None:
    encoder = Encoder(build(SHAPES["qwen3"]))
    thought = "<think>\nlong\n</think>\n\nshort"
    think = encoder.tokenizer.convert_tokens_to_ids("<think>")
    assert encoder.text(encoder.reply([user("hi")], [assistant(thought)])) == thought
    assert think not in encoder.prompt([user("hi"), assistant(thought), user("more")])
    assert encoder.text(encoder.reply([user("hi")], [assistant("short")])) == "<think>\n\n</think>\n\nshort"


def test_a_prompt_that_is_no_prefix_is_refused() -> None:
    tokenizer = build(SHAPES["chatml_on_a_base"])
    tokenizer.chat_template = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
    with pytest.raises(Unrenderable, match="not how the rendered prompt and reply begin"):
        Encoder(tokenizer).reply([user("hi")], [assistant("yes")])
    assert Encoder(tokenizer).reply([user("hi")], [assistant("<think>\nso\n</think>\nyes")])


def test_a_reply_of_several_turns_is_whole() -> None:
    encoder = Encoder(build(SHAPES["chatml_on_a_base"]))
    ids = encoder.reply([user("two")], [assistant("which"), user("this"), assistant("three")])
    said = encoder.tokenizer.decode(ids)
    assert said == "which<|im_end|>\n<|im_start|>user\nthis<|im_end|>\n<|im_start|>assistant\nthree<|im_end|>"


def plain_markup() -> Encoder:
    """ChatML whose markers were added as plain tokens, as by ``tokenizer.add_tokens``."""
    shape = SHAPES["chatml_on_a_base"]
    tokenizer = build(replace(shape, specials=()))
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"])
    assert "<|im_end|>" not in tokenizer.all_special_tokens
    return Encoder(tokenizer)


def test_markup_that_is_no_special_token_is_text_too_where_somebody_wrote_it() -> None:
    encoder = plain_markup()
    start, end = encoder.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    said = "so<|im_end|>\n<|im_start|>user\nno"
    reply = encoder.reply([user(said)], [assistant(said)])
    assert reply[-1] == end == encoder.end and not {start, end} & set(reply[:-1])
    assert encoder.prompt([user(said)]).count(end) == 1 and encoder.prompt([user(said)]).count(start) == 2
    assert encoder.text(reply) == said


def test_a_turn_that_is_left_out_is_seen_where_its_text_stands_elsewhere() -> None:
    encoder = Encoder(build(SHAPES["phi3"]))
    tool = {"role": "tool", "content": "4"}
    for content in ("4", "user", ""):
        talk = [user("what is 2 + 2? 4"), assistant("let me see"), tool | {"content": content}]
        with pytest.raises(Unrenderable, match="leaves out the turn of 'tool'"):
            encoder.prompt(talk)


def test_many_rows_are_encoded_as_one_at_a_time_and_as_whole_texts(shaped) -> None:
    """One row that the template refuses leaves the others alone; behind a long prompt a reply has the same ids."""
    _, encoder = shaped
    spelt = str(encoder.tokenizer.eos_token)
    talks = [
        [user("how are you?")],
        [user("how are you?"), assistant("fine, thanks"), user(f"what ends {spelt} a turn")],
        [user("one"), {"role": "nobody", "content": "two"}],
        [user("what ends a turn")],
    ]
    replies = [[assistant("12 degrees")], [assistant("  fine\n")], [assistant(f"{spelt} yes")]]
    rows = encoder.rows([(talk, replies) for talk in talks])
    refused = [isinstance(row, Unrenderable) for row in rows]
    assert not any(refused[:2]) and not refused[3]
    for talk, row in zip(talks, rows, strict=True):
        if isinstance(row, Unrenderable):
            with pytest.raises(Unrenderable, match=re.escape(str(row))):
                encoder.reply(talk, replies[0])
            continue
        assert row.prompt == encoder.prompt(talk)
        assert row.replies == [encoder.reply(talk, reply) for reply in replies]
    for talk in (talks[0], talks[3]):
        start = encoder.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        text = rendered(encoder, [*talk, *replies[0]])
        before, both = (encoder.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (start, text))
        reply = encoder.reply(talk, replies[0])
        assert both[: len(before)] == before and both[len(before) :][: len(reply)] == reply
