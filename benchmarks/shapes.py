"""A training step at every shape: against TRL at its best, a plain concatenated loop, and DPO of our own.

Each cell is a model at a length of prompts and replies. A step is forward, backward and AdamW on the same tokens, the
reference's log-probabilities given; contestants run interleaved in one process, and a ratio compares runs of the same
repetition. Losses and gradients of the three DPOs are compared first. Beside time and memory stand the floating-point
operations of each, and for our DPO the share of the rate at which this machine multiplies matrices of that size: what a
step could gain at most without doing less.

    python benchmarks/shapes.py --short                     # the shipped model, four minutes
    python benchmarks/shapes.py                             # the whole grid, more than an hour
    python benchmarks/shapes.py --device cuda --dtype bfloat16 --models llama_22m smollm2_135m
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import trl
from datasets import Dataset
from measure import Example, interleaved, load, operations, peak_bytes, product_rate, ratio, report, shown
from step_cost import DPO, KLDPO, WDPO, step
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from robustalign.data.pairs import PairCollator
from robustalign.policies.load import asset_folder, load_tokenizer
from robustalign.policies.logprobs import score_completions

SHAPES = {"20/20": (20, 20), "200/20": (200, 20), "400/200": (400, 200)}  # mean tokens of prompt and reply
PAIRS = {"20/20": 16, "200/20": 8, "400/200": 4}
MODELS = ("chitchat_tiny", "llama_22m", "smollm2_135m")
METHODS = {  # method, micro-batches, and what it is compared with
    "kldpo": (KLDPO, 1, "dpo"),
    "wdpo moved": (WDPO, 1, "dpo"),
    "wdpo exact": (WDPO | {"gradient": "exact"}, 1, "dpo"),
    "group": (DPO | {"name": "group_robust", "set": "group", "form": "online", "step_size": 0.01}, 1, "dpo"),
    "overlooked's weights": (DPO, 1, "dpo"),
    "kldpo pooled over 4": (KLDPO, 4, "dpo over 4"),
}
LLAMA_22M = {
    "vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 6, "tie_word_embeddings": True,
}  # fmt: skip
Run = Callable[[], object]


def policy(name: str, options: argparse.Namespace) -> PreTrainedModel:
    """A model of the grid; the Llama of 22 M parameters is random, which costs the same."""
    if name == "llama_22m":
        torch.manual_seed(0)
        dtype = getattr(torch, options.dtype)
        return LlamaForCausalLM(LlamaConfig(**LLAMA_22M)).to(options.device, dtype).eval()
    return load(argparse.Namespace(model=name, dtype=options.dtype, device=options.device))[0]


@torch.no_grad()
def random_pairs(model: PreTrainedModel, shape: str, seed: int = 0) -> list[Example]:
    """Pairs of random tokens whose lengths lie within a half of their mean."""
    draw, (prompt, reply) = random.Random(seed), SHAPES[shape]

    def text(mean: int) -> list[int]:
        return [draw.randrange(10, model.config.vocab_size) for _ in range(draw.randint(mean // 2, mean + mean // 2))]

    rows = [{"prompt": text(prompt), "chosen": text(reply), "rejected": text(reply)} for _ in range(PAIRS[shape])]
    sides = [row["chosen"] for row in rows] + [row["rejected"] for row in rows]
    logps = score_completions(model, [row["prompt"] for row in rows] * 2, sides, pad=0, batch_size=4).tolist()
    columns = {"score_gap": 1.0, "soft_label": 0.8}
    for i, row in enumerate(rows):
        row |= columns | {"row": i, "group": i % 2, "reference": (logps[i] - 0.3, logps[len(rows) + i] + 0.2)}
    return rows


def plain_loop(model: PreTrainedModel, pairs: list[Example]) -> Run:
    """Both replies with their own prompt, padded, the whole vocabulary at every position: the loop one writes first."""
    batch = PairCollator(0)(pairs)
    ids, mask = batch["input_ids"].to(model.device), batch["attention_mask"].long().to(model.device)
    scored = batch["completion_mask"][:, 1:].to(model.device)
    reference = batch["ref_logps"].to(model.device)

    def run() -> None:
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        logps = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        chosen, rejected = ((logps * scored).sum(1) - reference).chunk(2)
        (-nn.functional.logsigmoid(DPO["beta"] * (chosen - rejected))).mean().backward()

    return run


def trl_step(model: PreTrainedModel, pairs: list[Example], options: argparse.Namespace) -> Run:
    """TRL's loss on the same tokens, the reference precomputed and no recomputation in the backward."""
    settings = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), beta=DPO["beta"], precompute_ref_log_probs=True, gradient_checkpointing=False,
        bf16=options.dtype == "bfloat16", use_cpu=options.device == "cpu", report_to=[], disable_tqdm=True,
        max_length=None,
    )  # fmt: skip
    a_pair = Dataset.from_list([{"prompt": "hi", "chosen": "hello", "rejected": "no"}])
    tokenizer = load_tokenizer(asset_folder("chitchat_tiny"))
    trainer = trl.DPOTrainer(model=model, args=settings, train_dataset=a_pair, processing_class=tokenizer)
    examples = [
        {
            "prompt_ids": e["prompt"], "chosen_ids": e["chosen"], "rejected_ids": e["rejected"],
            "ref_chosen_logps": e["reference"][0], "ref_rejected_logps": e["reference"][1],
        }
        for e in pairs
    ]  # fmt: skip
    batch = {key: column.to(model.device) for key, column in trainer.data_collator(examples).items()}

    def run() -> None:
        model.zero_grad()
        trainer.compute_loss(model, dict(batch)).backward()

    return run


def with_optimiser(model: nn.Module, run: Run) -> Run:
    """The same, and an AdamW step of size 0: its cost without its effect."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

    def whole() -> None:
        run()
        optimiser.step()

    return whole


def ours(model: PreTrainedModel, pairs: list[Example]) -> dict[str, Run]:
    """Our methods, by name."""
    collate, steps = PairCollator(0), {}
    wanted = {"dpo": (DPO, 1, ""), "dpo over 4": (DPO, 4, "")} | METHODS
    for name, (method, cuts, _) in wanted.items():
        rows = [e | {"weight": 0.5 + i % 2} for i, e in enumerate(pairs)] if "weights" in name else pairs
        size = len(rows) // cuts
        batches = [collate(rows[i * size : (i + 1) * size]) for i in range(cuts)]
        steps[name] = step(
            model, method, [{key: column.to(model.device) for key, column in batch.items()} for batch in batches]
        )
    return steps


def gradient(model: nn.Module, run: Run) -> torch.Tensor:
    run()
    return torch.cat([p.grad.flatten().float() for p in model.parameters()])


def tokens_of(pairs: list[Example]) -> int:
    """Tokens that a step has to see: each prompt once, and both replies."""
    return sum(len(e["prompt"]) + len(e["chosen"]) + len(e["rejected"]) for e in pairs)


def cell(name: str, shape: str, options: argparse.Namespace) -> dict:
    """The figures of one cell."""
    model = policy(name, options)
    theirs = copy.deepcopy(model)
    pairs = random_pairs(model, shape)
    steps = ours(model, pairs) | {"plain loop": plain_loop(model, pairs)}
    others = {"TRL": trl_step(theirs, pairs, options)}
    wanted = gradient(model, steps["dpo"])
    difference = {
        "plain loop": float((gradient(model, steps["plain loop"]) - wanted).norm() / wanted.norm()),
        "TRL": float((gradient(theirs, others["TRL"]) - wanted).norm() / wanted.norm()),
    }
    memory = {n: peak_bytes(model, run) for n, run in steps.items()} | {"TRL": peak_bytes(theirs, others["TRL"])}
    whole = {n: with_optimiser(model, run) for n, run in steps.items()}
    whole |= {n: with_optimiser(theirs, run) for n, run in others.items()}
    seconds = interleaved(whole, options.repeats, options.device)
    figures = {
        f"{n} over dpo": {"time": ratio(seconds[n], seconds["dpo"]), "memory": memory[n] / memory["dpo"]}
        for n in ("TRL", "plain loop")
    }
    for n, (_, _, base) in METHODS.items():
        figures[f"{n} over {base}"] = {"time": ratio(seconds[n], seconds[base]), "memory": memory[n] / memory[base]}
    work = {n: operations(run) for n, run in (steps | others).items()}
    rate = product_rate(tokens_of(pairs), model.config.hidden_size, options.device, options.dtype)
    for what, figure in figures.items():
        above, below = what.split(" over dpo")[0], "dpo over 4" if what.endswith("over 4") else "dpo"
        figure["operations"] = work[above] / work[below]
        figure["share_of_product_rate"] = work[above] / statistics.median(seconds[above]) / rate
    middle = statistics.median(seconds["dpo"])
    bound = {"operations": work["dpo"], "seconds": middle, "share_of_product_rate": work["dpo"] / middle / rate}
    return {"figures": figures, "gradient_difference": difference, "dpo": bound}


def main() -> None:
    """Table, JSON and a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--short", action="store_true", help="the shipped model alone, three repetitions")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.short:
        options.models, options.repeats = ("chitchat_tiny",), 3
    torch.set_num_threads(1)
    rows, figures = [], {}
    for name in options.models:
        for shape in options.shapes:
            found = cell(name, shape, options)
            figures |= {f"{name} {shape}: {what}": cells for what, cells in found["figures"].items()}
            figures[f"{name} {shape}"] = {key: found[key] for key in ("gradient_difference", "dpo")}
            shown_cells = [
                f"{shown(c['time'])} ({c['memory']:.2f}; {c['operations']:.2f})" for c in found["figures"].values()
            ]
            worst, dpo = max(found["gradient_difference"].values()), found["dpo"]
            own = f"{dpo['seconds']:.3f} s, {100 * dpo['share_of_product_rate']:.0f} %"
            rows.append([name, shape, str(PAIRS[shape]), *shown_cells, f"{worst:.0e}", own])
            print(" | ".join(rows[-1]), flush=True)
    header = ["model", "prompt/reply", "pairs", *found["figures"], "gradients differ by", "dpo"]
    title = (
        f"Time (peak memory; operations) of a step as ratios; TRL {trl.__version__}, {options.device}, {options.dtype}"
    )
    report(title, header, rows, figures, options)


if __name__ == "__main__":
    main()
