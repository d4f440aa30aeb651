"""Chat messages to token ids: what a prompt is, what a reply is, and where a reply ends.

A row is ``prompt ids + reply ids``, both parts of what the chat template makes of the messages. Only the border and
the end are ours: no merge crosses the border, and a reply that somebody wrote ends in the token that ends the
template's turns (Gemma's ``<end_of_turn>``, Llama 3's ``<|eot_id|>``), or in EOS where there is none. What the template
writes behind it is left out, as sampling stops there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from robustalign.errors import ConfigError
from robustalign.policies.quoting import Quoting

Messages = Sequence[Mapping[str, str]]
PROBE: Messages = ({"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"})


class Unrenderable(ValueError):
    """The chat template refuses the messages, or renders a text that leaves some out; the error's text says why."""


class Encoder:
    """Encodes messages of ``role`` and ``content`` for one tokenizer.

    Args:
        tokenizer: with an EOS and a pad token.
        system: a system turn before prompts that have none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        self.tokenizer, self.system = tokenizer, system
        self._added = tokenizer.added_tokens_decoder
        self.quoting = Quoting(tokenizer, self._markup())
        self._left_out: dict[tuple[tuple[str, ...], bool], frozenset[int]] = {}

    @property
    def pad(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a reply: the template's, and EOS."""
        return frozenset({self.end, int(self.tokenizer.eos_token_id)})

    @property
    def end(self) -> int:
        """The token that ends a reply that somebody wrote."""
        return self._turn_end[2]

    def prompt(self, messages: Messages) -> list[int]:
        """Ids up to where a reply begins: by the chat template, or BOS and the text where there is none.

        Raises:
            Unrenderable: the template refuses the messages, or leaves one out.
            ConfigError: what it refuses is ``model.system_prompt``.
        """
        return self._prompt_ids(self._prompt_text(messages))

    def reply(self, messages: Messages, reply: Messages) -> list[int]:
        """Ids of a reply, of one or more turns, to a prompt; they end in ``end``.

        Raises:
            Unrenderable: as for the prompt, or the rendered prompt is not how prompt and reply begin, or the reply does
                not end as the template's turns do.
        """
        if self.tokenizer.chat_template is None:
            return [*self._ids(_joined(self._quoted(reply))), self.end]
        start = self._prompt_text(messages)
        whole = self._rendered([*self._with_system(messages), *reply], generation=False)
        if not whole.startswith(start):
            raise Unrenderable("the rendered prompt is not how the rendered prompt and reply begin")
        before, after, end = self._turn_end
        if not whole.endswith(before + after):
            raise Unrenderable("the chat template does not end this reply as it ends others")
        body = whole[len(start) : len(whole) - len(after)]
        return [*self._behind(start, body), end]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sampled reply, its end and special tokens left out."""
        body = [i for i in ids if i not in self.ends]
        text = str(self.tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return text.removeprefix(self._blank)

    def beginning(self, text: str, tokens: int) -> str:
        """The first so many tokens of a text, as text without a broken character at its end."""
        ids = self._ids(self.quoting.quoted(text))[:tokens]
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)).rstrip("\ufffd")

    @cached_property
    def _turn_end(self) -> tuple[str, str, int]:
        """What the template writes behind a reply: before its end token, from there on; and the token's id.

        Raises:
            ConfigError: the template ends turns with words that are no token.
        """
        eos = int(self.tokenizer.eos_token_id)
        if self.tokenizer.chat_template is None:
            return "", "", eos
        try:
            whole = self._rendered(PROBE, generation=False)
        except Unrenderable:
            return "", "", eos
        tail = whole.rpartition(PROBE[1]["content"])[2]
        added = {str(token): i for i, token in self._added.items() if str(token).strip()}
        places = [(tail.index(token), -len(token), token) for token in added if token in tail]
        if places:
            place, _, token = min(places)
            return tail[:place], tail[place:], added[token]
        if tail.strip():
            problem = (
                f"the chat template ends a turn with {tail.strip()!r}, which is no token of this tokenizer; add it"
            )
            raise ConfigError("model.path", problem)
        return "", tail, eos

    @cached_property
    def _blank(self) -> str:
        """The prefix that this tokenizer adds to every text: a blank, or nothing."""
        ids = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return " " if str(self.tokenizer.decode(ids)).startswith(" ") else ""

    def _prompt_text(self, messages: Messages) -> str:
        turns = self._with_system(messages)
        try:
            return self._rendered(turns, generation=True)
        except Unrenderable as error:
            if len(turns) == len(messages):
                raise
            self._rendered(messages, generation=True)  # else the fault is not the system prompt's
            raise ConfigError("model.system_prompt", f"this model cannot take a system turn: {error}") from error

    def _prompt_ids(self, text: str) -> list[int]:
        ids = self._ids(text)
        if self.tokenizer.chat_template is None and self.tokenizer.bos_token_id is not None:
            return [int(self.tokenizer.bos_token_id), *ids]
        if not ids:
            raise Unrenderable("the prompt has no token")
        return ids

    def _with_system(self, messages: Messages) -> Messages:
        if not self.system or any(message["role"] in ("system", "developer") for message in messages):
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def _rendered(self, messages: Messages, *, generation: bool) -> str:
        """The messages as the template renders them, as quoted text; every message has a part in it."""
        if self.tokenizer.chat_template is None:
            for message in messages:
                if message["role"] not in ("user", "assistant"):
                    raise Unrenderable(f"a turn of {message['role']!r} needs a chat template, which this model has not")
            return _joined(self._quoted(messages))
        quoted = self._quoted(messages)
        text = self._template(quoted, generation)
        left_out = self._positions_left_out(tuple(message["role"] for message in messages), generation)
        for i, message in enumerate(quoted):
            absent = message["content"].strip() not in text and self._plays_no_part(quoted, i, text, generation)
            if absent or i in left_out:
                raise Unrenderable(f"the chat template leaves out the turn of {message['role']!r}")
        return text

    def _markup(self) -> frozenset[str]:
        """Added tokens that the template writes around what users and assistants say, special or not."""
        if self.tokenizer.chat_template is None:
            return frozenset()
        try:
            prompt_text, whole_text = self._template(PROBE[:1], False), self._template(PROBE, False)
        except Unrenderable:
            return frozenset()
        around = prompt_text + whole_text.rpartition(PROBE[1]["content"])[2]
        names = (str(token) for token in self._added.values())
        return frozenset(name for name in names if name.strip() and name in around)

    def _positions_left_out(self, roles: tuple[str, ...], generation: bool) -> frozenset[int]:
        """The places of turns that the template leaves out, for these roles.

        It is found with marks in place of the texts, as a short text may occur elsewhere in the template too."""
        if (roles, generation) not in self._left_out:
            marks = [f"zq{i}qz" for i in range(len(roles))]
            try:
                messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
                text = self._template(messages, generation).lower()
                positions = frozenset(i for i, mark in enumerate(marks) if mark not in text)
            except Unrenderable:
                positions = frozenset()
            self._left_out[roles, generation] = positions
        return self._left_out[roles, generation]

    def _plays_no_part(self, messages: Messages, i: int, text: str, generation: bool) -> bool:
        try:
            return self._template([*messages[:i], *messages[i + 1 :]], generation) == text
        except Unrenderable:
            return False

    def _template(self, messages: Messages, generation: bool) -> str:
        turns = [dict(message) for message in messages]
        try:
            return str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=generation, tokenize=False))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Unrenderable(f"the chat template refuses the row: {error}") from error

    def _quoted(self, messages: Messages) -> list[dict[str, str]]:
        return [{"role": m["role"], "content": self.quoting.quoted(m["content"])} for m in messages]

    def _ids(self, text: str) -> list[int]:
        try:
            return self.quoting.ids(text)
        except ValueError as error:
            raise Unrenderable(str(error)) from error

    def _behind(self, start: str, body: str) -> list[int]:
        """Ids of ``body`` as they stand behind ``start``, if the two meet between tokens; else those of it alone."""
        before, both = self._ids(start), self._ids(start + body)
        last = self._added.get(before[-1]) if before else None
        swallowed = last is not None and last.rstrip and body[:1].isspace()
        if both[: len(before)] == before and not swallowed:
            return both[len(before) :]
        return self._ids(body)


def _joined(messages: Messages) -> str:
    return "\n".join(message["content"] for message in messages)
