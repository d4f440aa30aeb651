"""What sampling costs: our loop against ``generate`` of transformers, for candidates and for a measured policy.

    python benchmarks/sampling.py [--model chitchat_tiny] [--prompts 200] [--repeats 3] [--device cuda --dtype bfloat16]

Candidates are eight replies to a prompt. A measured policy gives one reply to a prompt and the divergence from its
reference along it, for which the other way scores policy and reference afterwards, over the whole vocabulary.
Contestants are interleaved in one process; ratios compare runs of the same repetition.
"""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from measure import interleaved, load, ratio, report, shown
from transformers import PreTrainedModel

from robustalign.config import SamplingConfig
from robustalign.data.prompts import messages
from robustalign.data.sources import chitchat
from robustalign.policies.encode import Encoder
from robustalign.policies.generate import Request, compared_replies, divergence, left_padded, sample_replies
from robustalign.policies.packing import Rows

Replies = list[list[int]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chitchat_tiny", help="a name in conf/model, or a folder of save_pretrained")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=10, help="longest reply")
    parser.add_argument("--rows", type=int, default=256, help="replies of a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


@torch.no_grad()
def by_transformers(model: PreTrainedModel, request: Request, pad: int, ends: Sequence[int]) -> list[Replies]:
    """Every row by ``generate``, in batches of like length padded on the left, cut behind its end."""
    sampling, drawn = request.sampling, []
    for places in request.batches():
        prompts = [request.prompts[request.rows[place][0]] for place in places]
        ids, mask = left_padded(prompts, pad, model.device)
        rows = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=sampling.temperature, top_k=sampling.top_k,
            top_p=sampling.top_p, max_new_tokens=sampling.max_new_tokens, pad_token_id=pad, eos_token_id=list(ends),
            use_cache=True,
        )[:, ids.shape[1] :].tolist()  # fmt: skip
        for place, row in zip(places, rows, strict=True):
            stop = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            drawn.append((place, row[:stop]))
    return request.by_prompt(dict(drawn))


@torch.no_grad()
def divergence_afterwards(
    model: PreTrainedModel, other: PreTrainedModel, request: Request, replies: list[Replies]
) -> None:
    """KL along each reply, from a forward of both models over prompts and replies."""
    for places in request.batches():
        of = [request.rows[place] for place in places]
        rows = Rows.collate([request.prompts[i] for i, _ in of], [replies[i][n] for i, n in of], pad=0)
        rows = rows.to(model.device)
        p, q = (
            m(input_ids=rows.ids, attention_mask=rows.attention.long(), use_cache=False).logits[rows.predictors].float()
            for m in (model, other)
        )
        divergence(p, q)


def main() -> None:
    """Table and JSON."""
    chosen = options()
    torch.set_num_threads(1)
    model, tokenizer = load(chosen)
    reference, encoder = copy.deepcopy(model), Encoder(tokenizer)
    prompts = chitchat.prompts("train", min_words=3, max_words=12)
    random.Random(0).shuffle(prompts)
    ids = [encoder.prompt(messages(prompt.turns)) for prompt in prompts[: chosen.prompts]]
    sampling = SamplingConfig(max_new_tokens=chosen.tokens, batch_size=chosen.rows)
    candidates, measured = Request(ids, 8, sampling, 0), Request(ids, 1, sampling, 0)
    pad, ends = encoder.pad, sorted(encoder.ends)

    def two_passes() -> None:
        divergence_afterwards(model, reference, measured, by_transformers(model, measured, pad, ends))

    seconds = interleaved(
        {
            "candidates, transformers": lambda: by_transformers(model, candidates, pad, ends),
            "candidates": lambda: sample_replies(model, encoder, candidates),
            "measured, transformers": two_passes,
            "measured": lambda: compared_replies(model, reference, encoder, measured),
        },
        chosen.repeats,
        chosen.device,
    )
    figures, rows = {}, []
    for name in ("candidates", "measured"):
        figures[name] = {"time": ratio(seconds[name], seconds[f"{name}, transformers"])}
        took = [f"{sorted(seconds[n])[chosen.repeats // 2]:.2f}" for n in (f"{name}, transformers", name)]
        rows.append([name, shown(figures[name]["time"]), *took])
    report("Sampling", ["what", "ours over transformers", "transformers, s", "ours, s"], rows, figures, chosen)


if __name__ == "__main__":
    main()
