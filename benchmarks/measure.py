"""Ratios of interleaved runs in one process, peak memory, and the pairs that the benchmarks share.

Machines are shared and their speed drifts, so every repetition runs all contestants once, one after the other, and a
ratio compares runs of the same repetition; process time on one thread leaves other people's work out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from robustalign.checks import resolve
from robustalign.config import Config, config_dir, register
from robustalign.pipeline.stages import Stages
from robustalign.policies.load import load_model
from robustalign.policies.logprobs import score_completions

Example = dict


def arguments(description: str | None, repeats: int) -> argparse.Namespace:
    """The options that all benchmarks have, and one thread."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="chitchat_tiny", help="a name in conf/model, or a folder of save_pretrained")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=32, help="pairs per optimiser step")
    parser.add_argument("--prompt", type=int, default=12, help="mean tokens of a prompt")
    parser.add_argument("--repeats", type=int, default=repeats)
    parser.add_argument("--only", type=lambda names: names.split(","), help="of the methods compared, these and DPO")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    torch.set_num_threads(1)
    return parser.parse_args()


def load(options: argparse.Namespace) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model without dropout, and its tokenizer."""
    folder = Path(options.model).is_dir()
    where = ("model=pretrained", f"model.path={options.model}") if folder else (f"model={options.model}",)
    stages = Stages(composed(*where, f"model.dtype={options.dtype}"))
    return load_model(stages.model_path, stages.config.model, options.device), stages.tokenizer


def composed(*overrides: str) -> Config:
    """A config as the command line would compose it."""
    register()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return resolve(compose("config", overrides=list(overrides)))


@torch.no_grad()
def sampled_pairs(model: PreTrainedModel, pad: int, end: int, count: int, prompt: int, seed: int = 0) -> list[Example]:
    """Pairs in the model's own words, as ``PairCollator`` takes them; replies have up to 10 tokens and an end."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    start = model.config.bos_token_id if model.config.bos_token_id is not None else end
    settings = {"do_sample": True, "pad_token_id": pad, "use_cache": True}
    ids = torch.full((count, 1), start, device=model.device)
    longest = max(2, 2 * prompt - 4)
    texts = model.generate(ids, min_new_tokens=longest + 20, max_new_tokens=longest + 20, **settings).tolist()
    examples = []
    for i, text in enumerate(texts):
        cut = draw.randint(4, longest)
        replies = [text[cut : cut + draw.randint(3, 10)], texts[i - 1][cut : cut + draw.randint(3, 10)]]
        chosen, rejected = ([*(token for token in reply if token not in (pad, end)), end] for reply in replies)
        columns = {"row": i, "score_gap": 1.0, "group": i % 4, "soft_label": 0.8}
        examples.append(columns | {"prompt": text[:cut], "chosen": chosen, "rejected": rejected})
    sides = [e["chosen"] for e in examples] + [e["rejected"] for e in examples]
    logps = score_completions(model, [e["prompt"] for e in examples] * 2, sides, pad=pad, batch_size=64).tolist()
    for i, example in enumerate(examples):
        example["reference"] = (logps[i], logps[count + i])
    return examples


def clock(device: str) -> float:
    """Process time on the CPU; wall time after all work is done elsewhere."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    contestants: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds of every contestant in every repetition, after a first run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, run in contestants.items():
            start = clock(device)
            run()
            if repeat:
                seconds[name].append(clock(device) - start)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios of paired runs."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def shown(figure: Mapping[str, float]) -> str:
    return f"{figure['median']:.2f} [{figure['min']:.2f}, {figure['max']:.2f}]"


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that are made and still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size


def peak_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Largest sum of tensors alive at once in ``run`` beside the parameters: activations and gradients."""
    model.zero_grad()
    if torch.cuda.is_available() and next(model.parameters()).is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with _Live() as live:
        live.known = {p.untyped_storage()._cdata for p in model.parameters()}
        run()
    return live.peak


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and attentions in ``run``."""
    aten = torch.ops.aten
    on_cpu = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(
            q, k, v
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        run()
    return counter.get_total_flops()


def product_rate(tokens: int, width: int, device: str, dtype: str, repeats: int = 5) -> float:
    """Operations a second of the product ``[tokens, width] x [width, 4 width]``: what this machine can do at best."""
    options: dict = {"device": device, "dtype": getattr(torch, dtype)}
    left, right = torch.randn(tokens, width, **options), torch.randn(width, 4 * width, **options)
    count = max(1, int(2e9 / (8 * tokens * width**2)))  # products that a clock can time

    def products() -> None:
        for _ in range(count):
            torch.mm(left, right)

    seconds = interleaved({"product": products}, repeats, device)["product"]
    return 8 * tokens * width**2 * count / min(seconds)


def report(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], figures: Mapping, options: argparse.Namespace
) -> None:
    """A markdown table; where asked the figures as JSON, and a picture of the ratios among them beside it."""
    print(f"\n### {title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items()}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"title": title, "settings": settings, "figures": figures}, indent=1) + "\n")
        ratios = {
            name: cells["time"] for name, cells in figures.items() if isinstance(cells, Mapping) and "time" in cells
        }
        if ratios:
            draw(title, ratios, options.json.with_suffix(".png"))


def draw(title: str, ratios: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Medians with their range, one line each, around 1."""
    figure = Figure(figsize=(7, 0.8 + 0.24 * len(ratios)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(ratios)[::-1]
    middle = [ratios[name]["median"] for name in names]
    reach = [[m - ratios[name]["min"] for m, name in zip(middle, names, strict=True)],
             [ratios[name]["max"] - m for m, name in zip(middle, names, strict=True)]]  # fmt: skip
    axes.axvline(1.0, color="#8c8c8c", linewidth=0.8)
    axes.errorbar(middle, range(len(names)), xerr=reach, fmt="o", color="#0072b2", markersize=4, capsize=2, linewidth=1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("time over that of DPO on the same pairs (median, range)")
    axes.set_title(title, fontsize=9)
    axes.grid(axis="x", color="#e6e6e6")
    figure.savefig(path)
