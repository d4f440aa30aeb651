"""Chat messages to text: what the template makes of a prompt and of a reply to it, every turn with a part in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, TypeVar

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from robustalign.errors import ConfigError
from robustalign.policies.quoting import Quoting

Messages = Sequence[Mapping[str, str]]
PROBE: Messages = ({"role": "user", "content": "ping"}, {"role": "assistant", "content": "pong"})


class Unrenderable(ValueError):
    """The chat template refuses the messages, or renders a text that leaves some out; the error's text says why."""


class Rendered(NamedTuple):
    """The text of a prompt, up to where a reply begins, and of replies behind it, up to what ends a turn."""

    prompt: str
    replies: list[str]


T = TypeVar("T")
Text = str | Unrenderable  # rendered, or why not
Row = tuple[Messages, Sequence[Messages]]  # a prompt and replies to it


class Rendering:
    """Renders messages by one tokenizer's chat template, special tokens that they spell quoted (:class:`Quoting`).

    Args:
        tokenizer: with an EOS and a pad token.
        system: a system turn before prompts that have none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        self.tokenizer, self.system = tokenizer, system
        self.added = tokenizer.added_tokens_decoder
        self.quoting = Quoting(tokenizer, self._markup())
        self._left_out: dict[tuple[tuple[str, ...], bool], frozenset[int]] = {}

    @cached_property
    def turn_end(self) -> tuple[str, str, int]:
        """What the template writes behind a reply: before its end token, from there on; and the token's id.

        Raises:
            ConfigError: the template ends turns with words that are no token.
        """
        eos = int(self.tokenizer.eos_token_id)
        if self.tokenizer.chat_template is None:
            return "", "", eos
        try:
            whole = given(self._rendered([PROBE], generation=False)[0])
        except Unrenderable:
            return "", "", eos
        tail = whole.rpartition(PROBE[1]["content"])[2]
        added = {str(token): i for i, token in self.added.items() if str(token).strip()}
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

    def rows(self, rows: Sequence[Row]) -> list[Rendered | Unrenderable]:
        """Prompts with the replies to each, many at once; or why a row cannot be rendered.

        Raises:
            ConfigError: what the template refuses is ``model.system_prompt``.
        """
        starts = self._starts([prompt for prompt, _ in rows])
        owners = [start for start, (_, replies) in zip(starts, rows, strict=True) for _ in replies]
        if self.tokenizer.chat_template is None:
            bodies = iter([self._text_of(reply) for _, replies in rows for reply in replies])
        else:
            talks = [[*self._with_system(prompt), *reply] for prompt, replies in rows for reply in replies]
            wholes = self._rendered(talks, generation=False)
            bodies = iter([self._body(*parts) for parts in zip(owners, wholes, strict=True)])
        return [_row(start, [next(bodies) for _ in replies]) for start, (_, replies) in zip(starts, rows, strict=True)]

    def _starts(self, prompts: Sequence[Messages]) -> list[Text]:
        turns = [self._with_system(messages) for messages in prompts]
        texts = self._rendered(turns, generation=True)
        for i, text in enumerate(texts):
            if isinstance(text, Unrenderable) and len(turns[i]) > len(prompts[i]):
                texts[i] = alone = self._rendered([prompts[i]], generation=True)[0]
                if isinstance(alone, str):
                    raise ConfigError("model.system_prompt", f"this model cannot take a system turn: {text}") from text
        return texts

    def _body(self, start: Text, whole: Text) -> Text:
        if isinstance(start, Unrenderable) or isinstance(whole, Unrenderable):
            return start if isinstance(start, Unrenderable) else whole
        if not whole.startswith(start):
            return Unrenderable("the rendered prompt is not how the rendered prompt and reply begin")
        before, after, _ = self.turn_end
        if not whole.endswith(before + after):
            return Unrenderable("the chat template does not end this reply as it ends others")
        return whole[len(start) : len(whole) - len(after)]

    def _with_system(self, messages: Messages) -> Messages:
        if not self.system or any(message["role"] in ("system", "developer") for message in messages):
            return messages
        return [{"role": "system", "content": self.system}, *messages]

    def _rendered(self, talks: Sequence[Messages], *, generation: bool) -> list[Text]:
        """Conversations as the template renders them, as quoted text; every message has a part in it."""
        if self.tokenizer.chat_template is None:
            return [self._untemplated(messages) for messages in talks]
        quoted = [self._quoted(messages) for messages in talks]
        texts = self._templates(quoted, generation)
        return [self._complete(*part, generation) for part in zip(quoted, texts, strict=True)]

    def _untemplated(self, messages: Messages) -> Text:
        for message in messages:
            if message["role"] not in ("user", "assistant"):
                return Unrenderable(f"a turn of {message['role']!r} needs a chat template, which this model has not")
        return self._text_of(messages)

    def _text_of(self, messages: Messages) -> Text:
        """The texts of all turns, a line each."""
        return self._splittable("\n".join(message["content"] for message in self._quoted(messages)))

    def _splittable(self, text: str) -> Text:
        if self.quoting.splits(text):
            return text
        return Unrenderable("the text spells a special token, which a tokenizer without a fast form cannot split")

    def _complete(self, quoted: Messages, text: Text, generation: bool) -> Text:
        """The text, if it leaves no turn out."""
        if isinstance(text, Unrenderable):
            return text
        left_out = self._positions_left_out(tuple(message["role"] for message in quoted), generation)
        for i, message in enumerate(quoted):
            absent = message["content"].strip() not in text and self._plays_no_part(quoted, i, text, generation)
            if absent or i in left_out:
                return Unrenderable(f"the chat template leaves out the turn of {message['role']!r}")
        return self._splittable(text)

    def _markup(self) -> frozenset[str]:
        """Added tokens that the template writes around what users and assistants say, special or not."""
        if self.tokenizer.chat_template is None:
            return frozenset()
        try:
            prompt_text, whole_text = map(given, self._templates([PROBE[:1], PROBE], False))
        except Unrenderable:
            return frozenset()
        around = prompt_text + whole_text.rpartition(PROBE[1]["content"])[2]
        names = (str(token) for token in self.added.values())
        return frozenset(name for name in names if name.strip() and name in around)

    def _positions_left_out(self, roles: tuple[str, ...], generation: bool) -> frozenset[int]:
        """The places of turns that the template leaves out, for these roles.

        It is found with marks in place of the texts, as a short text may occur elsewhere in the template too."""
        if (roles, generation) not in self._left_out:
            marks = [f"zq{i}qz" for i in range(len(roles))]
            messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
            text = self._templates([messages], generation)[0]
            self._left_out[roles, generation] = frozenset(
                i for i, mark in enumerate(marks) if isinstance(text, str) and mark not in text.lower()
            )
        return self._left_out[roles, generation]

    def _plays_no_part(self, messages: Messages, i: int, text: str, generation: bool) -> bool:
        return self._templates([[*messages[:i], *messages[i + 1 :]]], generation)[0] == text

    def _templates(self, talks: Sequence[Messages], generation: bool) -> list[Text]:
        turns = [[dict(message) for message in messages] for messages in talks]
        try:
            texts = self.tokenizer.apply_chat_template(turns, add_generation_prompt=generation, tokenize=False)
            return list(map(str, texts))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            if len(talks) <= 1:
                return [Unrenderable(f"the chat template refuses the row: {error}")] * len(talks)
            return [self._templates([messages], generation)[0] for messages in talks]

    def _quoted(self, messages: Messages) -> list[dict[str, str]]:
        return [{"role": m["role"], "content": self.quoting.quoted(m["content"])} for m in messages]


def given(value: T | Unrenderable) -> T:
    """The value.

    Raises:
        Unrenderable: that is what the value is.
    """
    if isinstance(value, Unrenderable):
        raise value
    return value


def _row(start: Text, bodies: Sequence[Text]) -> Rendered | Unrenderable:
    fault = next((text for text in (start, *bodies) if isinstance(text, Unrenderable)), None)
    return fault or Rendered(str(start), list(map(str, bodies)))
