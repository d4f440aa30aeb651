"""Text is text: a special token that somebody spelt out in a turn is encoded as its letters.

The text of a turn is quoted before the chat template renders it: every special token in it is replaced by a name that
no text contains. The special tokens of the rendered text are then the template's own. A text with such names is encoded
by a copy of the tokenizer whose special tokens have other names, so that all rules of splitting and merging hold.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Sequence
from functools import cached_property

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase


class Quoting:
    """Encodes rendered text with quoted parts, for one tokenizer.

    ``markup``: tokens that a chat template writes around turns; they are quoted too, special or not.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, markup: Collection[str] = ()) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = [str(token) for token in added if token.special or str(token) in markup]
        once = secrets.token_hex(8)
        self._tokens, self._mark = special, f"\ue000{once}:"
        self._names = {token: f"\ue000{once}.{i}\ue001" for i, token in enumerate(special)}
        self._quotes = {token: f"{self._mark}{i}\ue001" for i, token in enumerate(special)}
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._quote = re.compile(self._mark + "([0-9]+)\ue001")

    def quoted(self, text: str) -> str:
        """The text with another name in the place of every special token that it spells."""
        return self._special.sub(lambda match: self._quotes[match[0]], text)

    def plain(self, text: str) -> str:
        """The text as it was before it was quoted."""
        return self._quote.sub(lambda match: self._tokens[int(match[1])], text)

    def splits(self, text: str) -> bool:
        """Whether the tokenizer can encode a rendered text: one of another library cannot take quoted tokens."""
        return self._mark not in text or self._renamed is not None

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of rendered texts that it :meth:`splits`: special tokens are read, quoted ones are letters."""
        plain = [text for text in texts if self._mark not in text]
        ids = dict(zip(plain, self._read(plain), strict=True))
        return [ids[text] if text in ids else self._spelt(text) for text in texts]

    def _read(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts without quoted tokens."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        backend.no_truncation()
        backend.no_padding()
        return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _spelt(self, text: str) -> list[int]:
        """Ids of a text with quoted tokens."""
        assert self._renamed is not None, "the text was not asked whether it splits"
        renamed = self._special.sub(lambda match: self._names[match[0]], text)
        return list(self._renamed.encode(self.plain(renamed), add_special_tokens=False).ids)

    @cached_property
    def _renamed(self) -> Tokenizer | None:
        """The tokenizer, with special tokens of other names and the same ids."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        spec = json.loads(backend.to_str())
        spec |= {"post_processor": None, "truncation": None, "padding": None}
        for token in spec["added_tokens"]:
            token["content"] = self._names.get(token["content"], token["content"])
        spec["model"] = self._renamed_model(spec["model"])
        return Tokenizer.from_str(json.dumps(spec))

    def _renamed_model(self, model: dict) -> dict:
        names, vocabulary = self._names, model["vocab"]
        if isinstance(vocabulary, dict):
            model["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
        else:  # of Unigram: tokens with their scores
            model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        if "merges" in model:
            merges = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
            model["merges"] = [[a, b] for a, b in merges if not {a, b, a + b} & set(names)]
        return model
