"""JSON as data hold it: a name that an object holds twice, or an array that never ends, is an error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 20  # characters that are read at once


def loads(text: str) -> Any:
    """The value of a text.

    Raises:
        ValueError: it is no JSON, names something twice, or nests too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError("JSON nests too deep") from None


def values(stream: IO[str]) -> Iterator[Any]:
    """The values of an array, or values one after another, without holding them all.

    Raises:
        ValueError: as for a text; or the array has no end.
    """
    decoder, buffer, position = json.JSONDecoder(object_pairs_hook=_named_once), "", 0
    more, in_list, started = True, False, False
    while True:
        while position < len(buffer) and (buffer[position] in " \t\r\n," or (buffer[position] == "[" and not started)):
            in_list, started = in_list or buffer[position] == "[", started or not buffer[position].isspace()
            position += 1
        if position < len(buffer) and buffer[position] == "]" and in_list:
            in_list, position = False, position + 1
            continue
        if position < len(buffer):
            started = True
            try:
                value, position = decoder.raw_decode(buffer, position)
            except RecursionError:
                raise ValueError("JSON nests too deep") from None
            except json.JSONDecodeError:
                if not more:
                    raise
            else:
                yield value
                continue
        elif not more:
            if in_list:
                raise ValueError("the file ends within its array: it was cut off")
            return
        block = stream.read(BLOCK)
        more, buffer, position = bool(block), buffer[position:] + block, 0


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object names {next(name for name in names if names.count(name) > 1)!r} twice")
    return mapping
