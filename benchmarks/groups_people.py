"""Tastes of real people: what `annotators` and `overlooked` find in UKPConvArg1, on plain features of style.

python benchmarks/groups_people.py PATH/ukp_convarg1.jsonl.gz        # half a minute of one core

Rows (Habernal and Gurevych, ACL 2016): title, arg1, arg2, votes with worker and value a1, a2 or equal.
A pair is one decided vote; whole debates are held out.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

import numpy as np

from robustalign.groups import PairData, build_grouping, weigh_evidence


def style(text: str) -> list[float]:
    """Fifteen numbers that know nothing of what is argued."""
    words = text.split()
    n, letters = max(1, len(words)), max(1, len(text))
    sentences = max(1, len(re.findall(r"[.!?]+", text)))
    return [
        np.log(n), n / 50, float(np.mean([len(word) for word in words] or [0])), n / sentences / 20,
        text.count("?"), text.count("!"), 10 * text.count(",") / n, text.count('"'),
        10 * sum(c.isupper() for c in text) / letters, 10 * sum(c.isdigit() for c in text) / letters,
        len(re.findall(r"https?|www", text)), len({word.lower() for word in words}) / n,
        10 * len(re.findall(r"\b(?:I|my)\b", text)) / n, float(text[:1].isupper()),
        10 * len(re.findall(r"\b(?:because|since|therefore|thus|so)\b", text.lower())) / n,
    ]  # fmt: skip


def votes(path: Path) -> PairData:
    """Every decided vote as a pair."""
    found: list[tuple[int, list[float], str, str]] = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for i, row in enumerate(map(json.loads, file)):
            x = np.subtract(style(row["arg1"]), style(row["arg2"]))
            for vote in row["votes"]:
                if vote["value"] != "equal":
                    side = x if vote["value"] == "a1" else -x
                    found.append((i, side.tolist(), vote["worker"], row["title"]))
    prompt, features, annotator, debate = zip(*found, strict=True)
    columns = {"annotator": np.array(annotator), "debate": np.array(debate)}
    return PairData(prompt=np.array(prompt), features=np.array(features), columns=columns)


def main() -> None:
    data = votes(Path(sys.argv[1]))
    tastes = {"method": "annotators", "across": "debate", "starts": 2, "rounds": 15}
    for options in (tastes | {"k": 2}, tastes | {"k": 3}, {"method": "overlooked"}):
        found = build_grouping(options).find(data)
        evidence = weigh_evidence(found, data.prompt, data.columns)
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(found.names, evidence.shares, strict=True))
        print(f"{options['method']} ({shares}): {evidence.sentence}")


if __name__ == "__main__":
    main()
