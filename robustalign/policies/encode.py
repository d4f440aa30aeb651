"""Chat messages to token ids: what a prompt is, what a reply is, and where a reply ends.

A row is ``prompt ids + reply ids``, both parts of what the chat template makes of the messages. Only the border and
the end are ours: no merge crosses the border, and a reply that somebody wrote ends in the token that ends the
template's turns (Gemma's ``<end_of_turn>``, Llama 3's ``<|eot_id|>``), or in EOS where there is none. What the template
writes behind it is left out, as sampling stops there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from robustalign.policies.rendering import Messages, Rendered, Rendering, Row, Unrenderable, given


class Encoded(NamedTuple):
    """Ids ``[T]`` of a prompt, and of each of its replies."""

    prompt: list[int]
    replies: list[list[int]]


class Encoder:
    """Encodes messages of ``role`` and ``content`` for one tokenizer.

    Args:
        tokenizer: with an EOS and a pad token.
        system: a system turn before prompts that have none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        self.tokenizer, self.rendering = tokenizer, Rendering(tokenizer, system)
        self._added = tokenizer.added_tokens_decoder

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
        return self.rendering.turn_end[2]

    def prompt(self, messages: Messages) -> list[int]:
        """Ids up to where a reply begins: by the chat template, or BOS and the text where there is none.

        Raises:
            Unrenderable: the template refuses the messages, or leaves one out.
            ConfigError: what it refuses is ``model.system_prompt``.
        """
        return given(self.rows([(messages, ())])[0]).prompt

    def reply(self, messages: Messages, reply: Messages) -> list[int]:
        """Ids of a reply, of one or more turns, to a prompt; they end in ``end``.

        Raises:
            Unrenderable: as for the prompt, or the rendered prompt is not how prompt and reply begin, or the reply does
                not end as the template's turns do.
        """
        return given(self.rows([(messages, (reply,))])[0]).replies[0]

    def rows(self, rows: Sequence[Row]) -> list[Encoded | Unrenderable]:
        """Prompts with the replies to each, many at once; or why a row cannot be encoded.

        Raises:
            ConfigError: what the template refuses is ``model.system_prompt``.
        """
        texts = self.rendering.rows(rows)
        found = iter(self._encoded([text for text in texts if isinstance(text, Rendered)]))
        return [text if isinstance(text, Unrenderable) else next(found) for text in texts]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a sampled reply, its end and special tokens left out."""
        body = [i for i in ids if i not in self.ends]
        text = str(self.tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return text.removeprefix(self._blank)

    def beginning(self, text: str, tokens: int) -> str:
        """The first so many tokens of a text, as text without a broken character at its end."""
        ids = self._ids([self.rendering.quoting.quoted(text)])[0][:tokens]
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)).rstrip("\ufffd")

    @cached_property
    def _blank(self) -> str:
        """The prefix that this tokenizer adds to every text: a blank, or nothing."""
        ids = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return " " if str(self.tokenizer.decode(ids)).startswith(" ") else ""

    def _encoded(self, texts: Sequence[Rendered]) -> list[Encoded | Unrenderable]:
        prompts = self._prompt_ids([text.prompt for text in texts])
        replies = iter(self._reply_ids([(text.prompt, body) for text in texts for body in text.replies]))
        rows = [Encoded(ids, [next(replies) for _ in text.replies]) for ids, text in zip(prompts, texts, strict=True)]
        return [row if row.prompt else Unrenderable("the prompt has no token") for row in rows]

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        bos = self.tokenizer.bos_token_id
        first = [] if self.tokenizer.chat_template is not None or bos is None else [int(bos)]
        return [[*first, *ids] for ids in self._ids(prompts)]

    def _reply_ids(self, replies: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Ids of replies, each behind its prompt."""
        bodies = [body for _, body in replies]
        if self.tokenizer.chat_template is None:
            return [[*ids, self.end] for ids in self._ids(bodies)]
        tails = [self._tail(prompt) for prompt, _ in replies]
        before, both = self._ids(tails), self._ids([tail + body for tail, body in zip(tails, bodies, strict=True)])
        behind = [self._behind(*parts) for parts in zip(before, bodies, both, strict=True)]
        alone = iter(self._ids([body for body, ids in zip(bodies, behind, strict=True) if ids is None]))
        return [[*(next(alone) if ids is None else ids), self.end] for ids in behind]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of rendered texts; each is encoded once."""
        once = list(dict.fromkeys(texts))
        ids = dict(zip(once, self.rendering.quoting.ids(once), strict=True))
        return [ids[text] for text in texts]

    def _tail(self, prompt: str) -> str:
        """A rendered prompt from its last added token on: what stands before such a token changes no id behind it."""
        places = [match.start() for match in self._borders.finditer(prompt)]
        return prompt[places[-1] if places else 0 :]

    @cached_property
    def _borders(self) -> re.Pattern[str]:
        """Added tokens at which the tokenizer splits a text before it does anything else."""
        tokens = [t for t in self._added.values() if not t.normalized and not t.single_word and str(t)]
        longest_first = sorted(map(str, tokens), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def _behind(self, before: list[int], body: str, both: list[int]) -> list[int] | None:
        """The ids of ``both`` without those of ``before``; None where the two do not meet between tokens."""
        last = self._added.get(before[-1]) if before else None
        swallowed = last is not None and last.rstrip and body[:1].isspace()
        return both[len(before) :] if both[: len(before)] == before and not swallowed else None
