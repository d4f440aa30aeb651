"""Tastes of real people: what `annotators` and `overlooked` find in UKPConvArg1.

python benchmarks/groups_people.py PATH/ukp_convarg1.jsonl.gz   # features of style; half a minute
python benchmarks/groups_people.py PATH/ukp_convarg1.jsonl.gz --model smollm2_135m --read 10    # input embeddings

Rows (Habernal and Gurevych, ACL 2016): title, arg1, arg2, votes with worker and value a1, a2 or equal.
A pair is one decided vote; whole debates are held out.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path

import numpy as np
from measure import composed

from robustalign.groups import PairData, build_grouping, weigh_evidence
from robustalign.pipeline.stages import Stages
from robustalign.policies.features import reply_features

ASKED = {"role": "user", "content": "Which argument is more convincing?"}


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


def embedded(texts: list[str], model: str) -> np.ndarray:
    """The mean input embedding of each text, ``[N, D]``: the features of groups=overlooked at its default layer."""
    stages = Stages(composed(f"model={model}"))
    ids = [stages.encoder.reply([ASKED], [{"role": "assistant", "content": text}]) for text in texts]
    pad = stages.tokenizer.pad_token_id
    return reply_features(stages.reference, [[pad]] * len(ids), ids, [0], pad=pad, batch_size=64).numpy()


def votes(rows: list[dict], features: dict[str, np.ndarray]) -> tuple[PairData, list[int]]:
    """Every decided vote as a pair, and the row that each is of."""
    found: list[tuple[int, np.ndarray, str, str]] = []
    for i, row in enumerate(rows):
        x = features[row["arg1"]] - features[row["arg2"]]
        for vote in row["votes"]:
            if vote["value"] != "equal":
                found.append((i, x if vote["value"] == "a1" else -x, vote["worker"], row["title"]))
    prompt, x, annotator, debate = zip(*found, strict=True)
    columns = {"annotator": np.array(annotator), "debate": np.array(debate)}
    return PairData(prompt=np.array(prompt), features=np.array(x), columns=columns), list(prompt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--model", help="a name in conf/model; default: features of style")
    parser.add_argument("--tastes", type=int, nargs="*", default=[2, 3])
    parser.add_argument("--read", type=int, default=0, help="show so many overlooked votes")
    options = parser.parse_args()
    with gzip.open(options.path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = sorted({row[side] for row in rows for side in ("arg1", "arg2")})
    values = embedded(texts, options.model) if options.model else np.array([style(text) for text in texts])
    data, row_of = votes(rows, dict(zip(texts, values, strict=True)))
    tastes = {"method": "annotators", "across": "debate", "starts": 2, "rounds": 15}
    for wanted in (*(tastes | {"k": k} for k in options.tastes), {"method": "overlooked"}):
        found = build_grouping(wanted).find(data)
        evidence = weigh_evidence(found, data.prompt, data.columns)
        shares = ", ".join(f"{name} {share:.2f}" for name, share in zip(found.names, evidence.shares, strict=True))
        print(f"{wanted['method']} ({shares}): {evidence.sentence}", flush=True)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(found.membership[:, 1] > 0.5))[: options.read]
    for place in chosen.tolist():
        row = rows[row_of[place]]
        print(f"\n{row['title']}\n  1: {row['arg1'][:300]}\n  2: {row['arg2'][:300]}\n  {row['votes']}")


if __name__ == "__main__":
    main()
