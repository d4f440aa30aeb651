"""Time and peak memory of a training step of every method, relative to DPO on the same pairs.

On the shipped model:   python benchmarks/step_cost.py
On SmolLM2:             python benchmarks/step_cost.py --model smollm2_135m --pairs 8 --prompt 40 --only wdpo,kldpo
On a GPU:               python benchmarks/step_cost.py --model FOLDER --device cuda --dtype bfloat16 --pairs 64
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from measure import arguments, composed, interleaved, load, peak_bytes, ratio, report, sampled_pairs, shown
from torch import nn

from robustalign.config import config_dir
from robustalign.data.pairs import PairCollator
from robustalign.training.objective import build_objective
from robustalign.training.steps import Batch, objective_step

DPO = {"name": "dpo", "loss": "sigmoid", "set": "nominal", "beta": 0.1}
KLDPO = {"name": "kldpo", "loss": "sigmoid", "set": "kl", "beta": 0.1, "temperature": 0.5}
WDPO = {"name": "wdpo", "loss": "sigmoid", "set": "wasserstein", "beta": 0.1, "radius": 0.03}
CUTS = 4
SHAPES: dict[str, tuple[dict, int]] = {
    "dpo over 4 micro-batches": (DPO, CUTS),
    "kldpo pooled over 4 micro-batches": (KLDPO, CUTS),
    "kldpo per micro-batch, 4 of them": (KLDPO | {"scope": "microbatch"}, CUTS),
    "wdpo, a prompt per sequence": (WDPO | {"prompt": "per_sequence"}, 1),
    "wdpo, gradient: forward": (WDPO | {"gradient": "forward"}, 1),
    "wdpo, gradient: central": (WDPO | {"gradient": "central"}, 1),
    "wdpo, gradient: exact": (WDPO | {"gradient": "exact"}, 1),
}


def methods() -> dict[str, tuple[dict, int]]:
    """Every preset on one micro-batch, DPO first, and other ways to take some of them: method and micro-batches."""
    names = sorted({path.stem for path in (config_dir() / "method").glob("*.yaml")} - {"oracle", "own_pairs", "audit"})
    names.sort(key=lambda name: name != "dpo")
    return {name: (composed(f"method={name}").method, 1) for name in names} | SHAPES


def step(model: nn.Module, method: dict, batches: Sequence[Batch]) -> Callable[[], None]:
    """A whole optimiser step's gradient; the optimiser itself costs all methods the same."""
    of = objective_step(build_objective(method))

    def run() -> None:
        model.zero_grad()
        micro = [dict(batch) for batch in batches]
        plan = of.plan(model, micro)
        for index in reversed(range(len(micro))):
            of.loss(model, micro[index], plan, index)[0].backward()

    return run


def main() -> None:
    """Table and JSON."""
    options = arguments(__doc__, repeats=5)
    model, tokenizer = load(options)
    pairs = sampled_pairs(model, tokenizer.pad_token_id, tokenizer.eos_token_id, options.pairs, options.prompt)
    collate = PairCollator(tokenizer.pad_token_id)
    contestants = {}
    bases = ("dpo", "dpo over 4 micro-batches")
    for name, (method, cuts) in methods().items():
        if options.only and name not in (*bases, *options.only):
            continue
        size = len(pairs) // cuts
        batches = [collate(pairs[i * size : (i + 1) * size]) for i in range(cuts)]
        batches = [{key: column.to(options.device) for key, column in batch.items()} for batch in batches]
        contestants[name] = step(model, method, batches)
    seconds = interleaved(contestants, options.repeats, options.device)
    bytes_of = {name: peak_bytes(model, run) for name, run in contestants.items()}
    figures, rows = {}, []
    for name in contestants:
        base = "dpo over 4 micro-batches" if SHAPES.get(name, (DPO, 1))[1] == CUTS else "dpo"
        figures[name] = cells = {
            "against": base,
            "time": ratio(seconds[name], seconds[base]),
            "memory": bytes_of[name] / bytes_of[base],
            "seconds": sorted(seconds[name])[len(seconds[name]) // 2],
            "megabytes": bytes_of[name] / 1e6,
        }
        rows.append([name, base, shown(cells["time"]), f"{cells['memory']:.2f}", f"{cells['seconds']:.3f}"])
    report("Cost of a step", ["method", "against", "time", "peak memory", "seconds"], rows, figures, options)


if __name__ == "__main__":
    main()
