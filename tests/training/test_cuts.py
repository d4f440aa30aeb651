"""However an optimiser batch is cut into micro-batches and spread over ranks, it is the same batch."""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from robustalign.config import config_dir
from robustalign.data.pairs import PairCollator
from robustalign.policies.logprobs import score_completions
from robustalign.training import distributed, sharded
from robustalign.training.objective import build_objective
from robustalign.training.steps import objective_step
from tests.conftest import compose_config, tiny_gpt2
from tests.training.test_step import examples

PAIRS = 64
WHOLE = ((PAIRS,),)
RAGGED = (30, 20, 14)
CUTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "4x16": ((16,) * 4,),
    "64x1": ((1,) * PAIRS,),
    "30+20+14": (RAGGED,),
    "1x32 | 1x32": ((32,), (32,)),
    "2x16 | 2x16": ((16, 16), (16, 16)),
    "32x1 | 32x1": ((1,) * 32, (1,) * 32),
    "50 | 14": ((50,), (14,)),
    "30+20 | 14": ((30, 20), (14,)),
}  # micro-batches of each rank
PAIR_BY_PAIR = ("64x1", "32x1 | 32x1")
START = {1: "30+20+14", 2: "50 | 14"}
"""With so many ranks, the cut that is also tried where policy and reference agree."""
WRAPPED = ("kldpo", "wdpo", "wpo", "logits_sam")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@functools.cache
def methods() -> dict[str, dict]:
    """Every preset that looks at whole batches, and those that can carry their dual along."""
    names = {path.stem for path in (config_dir() / "method").glob("*.yaml")} - {"audit"}  # which trains nothing
    presets = {name: compose_config(f"method={name}").method for name in sorted(names)}
    pooled = {name: method for name, method in presets.items() if method.get("scope", "batch") == "batch"}
    streams = {
        f"{name} stream": method | {"scope": "stream"}
        for name, method in pooled.items()
        if name in ("kldpo", "drdpo", "cvar", "chi2")
    }
    regret = {"group_regret on memberships": pooled["group_regret"] | {"attainable": [0.1, 0.3, 0.2]}}
    return pooled | streams | regret


@functools.cache
def rows(memberships: bool = False) -> list[dict]:
    """Pairs with every column that a method may ask for; groups as ids or as memberships."""
    soft = np.random.default_rng(0).dirichlet(np.ones(3), size=PAIRS).astype(np.float32)
    return [
        row
        | {"group": soft[i] if memberships else i % 3}
        | {"soft_label": 0.55 + 0.4 * i / PAIRS, "weight": 0.5 + (i % 4) / 2}
        for i, row in enumerate(examples(PAIRS))
    ]


@functools.cache
def rows_at_the_reference(dtype: torch.dtype) -> list[dict]:
    """The same pairs with the policy's own log-probabilities as the reference's, scored as the product scores them."""
    sides = [(row, side) for row in rows() for side in ("chosen", "rejected")]
    prompts, replies = [row["prompt"] for row, _ in sides], [row[side] for row, side in sides]
    logps = score_completions(tiny_gpt2(dtype), prompts, replies, pad=0, batch_size=128).view(PAIRS, 2).tolist()
    return [row | {"reference": tuple(pair)} for row, pair in zip(rows(), logps, strict=True)]


def gradient(
    method: dict, dtype: torch.dtype, cut: Sequence[Sequence[int]], at_reference: bool = False
) -> torch.Tensor:
    """The parameter gradient, summed over ranks: flat, fp64. What learns has seen the same pairs once before."""
    model, step = tiny_gpt2(dtype), objective_step(build_objective(method, batch_size=PAIRS))
    start = sum(map(sum, cut[: distributed.rank()]))
    places = itertools.pairwise(np.cumsum([start, *cut[distributed.rank()]]))
    soft = method.get("attainable") is not None
    pairs = rows_at_the_reference(dtype) if at_reference else rows(memberships=soft)
    batches = [PairCollator(pad=0)(pairs[a:b]) for a, b in places]
    for _ in range(2 if step.state_dict() else 1):
        model.zero_grad()
        plan = step.plan(model, batches)
        for index, batch in enumerate(batches):
            step.loss(model, batch, plan, index)[0].backward()
    flat = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return distributed.summed(torch.cat(flat)).double()


def wrapped_gradient(method: dict, parallel: str) -> torch.Tensor:
    """The parameter gradient that a data-parallel wrapper leaves behind: flat, fp64."""
    model, step = tiny_gpt2(torch.float64), objective_step(build_objective(method, batch_size=PAIRS))
    wrapped = DistributedDataParallel(model) if parallel == "ddp" else model
    if parallel == "fsdp":
        sharded.shard(model)
    mine = rows()[32 * distributed.rank() : 32 * distributed.rank() + 32]
    batches = [PairCollator(pad=0)(mine[:16]), PairCollator(pad=0)(mine[16:])]
    plan = step.plan(model, batches)
    for index, batch in enumerate(batches):
        (distributed.world() * step.loss(wrapped, batch, plan, index)[0]).backward()
    grads = [p.grad.full_tensor() if parallel == "fsdp" else p.grad for p in model.parameters()]
    return torch.cat([grad.flatten() for grad in grads])


def gradients(dtype: torch.dtype, world: int) -> dict[tuple[str, str], torch.Tensor]:
    """Of every method and every cut for so many ranks; pair by pair, which takes long, in fp64 alone."""
    cuts = {k: v for k, v in CUTS.items() if len(v) == world and (dtype == torch.float64 or k not in PAIR_BY_PAIR)}
    found = {(name, label): gradient(m, dtype, cut) for name, m in methods().items() for label, cut in cuts.items()}
    if dtype == torch.float32:  # where rounding shows
        label, every = START[world], methods().items()
        found |= {(name, f"at the reference, {label}"): gradient(m, dtype, CUTS[label], True) for name, m in every}
    return found


def on_a_rank(index: int, port: int, dtype: torch.dtype, out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=index, world_size=2)
    found = gradients(dtype, 2)
    if dtype == torch.float64:
        found |= {(n, "ddp"): wrapped_gradient(methods()[n], "ddp") for n in (*WRAPPED, "wdpo_released")}
        found |= {(n, "fsdp"): wrapped_gradient(methods()[n], "fsdp") for n in WRAPPED}
    if index == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_neither_cut_nor_ranks_change_the_gradient(dtype: torch.dtype, tmp_path: Path) -> None:
    ours = mp.spawn(on_a_rank, (free_port(), dtype, tmp_path / "two.pt"), nprocs=2, join=False)
    whole = {name: gradient(method, dtype, WHOLE) for name, method in methods().items()}
    found = gradients(dtype, 1)
    start = {name: gradient(m, dtype, WHOLE, True) for name, m in methods().items()} if dtype == torch.float32 else {}
    while not ours.join():
        pass
    found |= torch.load(tmp_path / "two.pt")
    every = len(whole) * len(CUTS) + 2 * len(WRAPPED) + 1
    few = len(whole) * (len(CUTS) - len(PAIR_BY_PAIR) + len(START))
    assert len(found) == (every if dtype == torch.float64 else few)
    errors = {}
    for (name, label), value in found.items():
        expected = start[name] if label.startswith("at the reference") else whole[name]
        errors[f"{name}: {label}"] = float((value - expected).norm() / expected.norm())
    print(*(f"{error:.1e}  {what}" for what, error in sorted(errors.items(), key=lambda item: -item[1])), sep="\n")
    assert {what: error for what, error in errors.items() if not error <= TOLERANCE[dtype]} == {}
