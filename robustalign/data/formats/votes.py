"""``votes``: two replies with the votes of several people, listed or counted.

``dataset.votes`` says what becomes of them: ``each`` makes a comparison of every vote, ``majority`` one of them all,
``share`` one with the share of the votes as soft label and their number as weight. A loss that is linear in the label
is the same, weighted, under ``each`` and ``share``. Tied votes are left out, or count half (``dataset.ties=half``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from robustalign.config import DatasetConfig
from robustalign.data.fields import compile_field, number
from robustalign.data.files import BadRow, Row
from robustalign.data.formats import Fields
from robustalign.data.formats.choice import two_replies
from robustalign.data.formats.outcome import NEITHER, TIE, Dropped, Outcome, comparison
from robustalign.data.formats.winner import Winner
from robustalign.errors import ConfigError

REQUIRED = ("first", "second")
OPTIONAL = ("prompt", "votes", "winner", "count_first", "count_second", "count_tie")
SPECIAL = ("winner", "votes")
MOST = 1_000_000  # votes of one outcome: each is a row while a pair is read


def prepare(fields: Fields) -> None:
    """Compile who won a vote, and where votes are.

    Raises:
        ConfigError: votes are neither listed nor counted.
    """
    if ("votes" in fields) != ("winner" in fields):
        missing = "winner" if "votes" in fields else "votes"
        raise ConfigError(
            f"dataset.fields.{missing}", "is missing; listed votes need votes (their list) and winner (of one)"
        )
    if "votes" in fields:
        fields["winner"] = Winner(fields["winner"], "dataset.fields.winner")
        votes = fields["votes"]
        fields["votes"] = [
            compile_field(path, "dataset.fields.votes") for path in ([votes] if isinstance(votes, str) else votes)
        ]
    elif not {"count_first", "count_second"} <= set(fields):
        raise ConfigError("dataset.fields.votes", "is missing; name the list of votes, or count_first and count_second")


def read(row: Row, fields: Fields, config: DatasetConfig) -> Iterator[Outcome]:
    """A comparison for every vote, or one of them all; a vote's own columns are read from ``vote``.

    Raises:
        BadRow: a cell holds nothing, or nobody can tell who won a vote.
    """
    turns_of_row = two_replies(row, fields)
    if isinstance(turns_of_row, Dropped):
        yield turns_of_row, row
        return
    prompt, first, second = turns_of_row
    votes = list(_votes(row, fields))
    if config.votes == "each":
        if not votes:
            yield Dropped("no votes", prompt), row
        for outcome, voter in votes:
            if outcome == "neither" or (outcome == "tie" and config.ties == "drop"):
                yield Dropped(NEITHER if outcome == "neither" else TIE, prompt), voter
            else:
                chosen, rejected = (second, first) if outcome == "second" else (first, second)
                yield comparison(prompt, chosen, rejected, 0.5 if outcome == "tie" else None), voter
        return
    counts = {name: sum(outcome == name for outcome, _ in votes) for name in ("first", "second", "tie")}
    together = {**row, "vote": [voter.get("vote") for _, voter in votes]}
    half = counts["tie"] if config.ties == "half" else 0
    total = counts["first"] + counts["second"] + half
    share = (counts["first"] + half / 2) / total if total else 0.5
    if share == 0.5 and (config.ties == "drop" or not total):
        yield Dropped(TIE if votes else "no votes", prompt), together
        return
    chosen, rejected, share = (second, first, 1 - share) if share < 0.5 else (first, second, share)
    soft = share if config.votes == "share" or share == 0.5 else None
    yield comparison(prompt, chosen, rejected, soft, float(total)), together


def _votes(row: Row, fields: Fields) -> Iterator[tuple[str, dict[str, Any]]]:
    """The outcome of every vote, and the row with the vote in ``vote`` (and its list's name in ``votes_of``)."""
    if "winner" not in fields:
        for outcome in ("first", "second", "tie"):
            field = fields.get(f"count_{outcome}")
            try:
                count = number(field(row)) if field else 0
                if not 0 <= count <= MOST or count != int(count):
                    raise ValueError(f"holds {count:g} where a number of votes is expected (0 to {MOST:,})")
            except ValueError as error:
                raise BadRow(f"dataset.fields.count_{outcome}", str(error)) from error
            yield from ((outcome, {**row, "vote": None}) for _ in range(int(count)))
        return
    for list_of_votes in fields["votes"]:
        votes = list_of_votes(row) or []
        if not isinstance(votes, list):
            raise BadRow("dataset.fields.votes", f"holds {str(votes)[:40]!r} where a list of votes is expected")
        for vote in votes:
            voter = {**row, "vote": vote, "votes_of": list_of_votes.paths[0]}
            yield fields["winner"](voter), voter
