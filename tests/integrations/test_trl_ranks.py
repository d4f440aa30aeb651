"""A robust DPOTrainer on two ranks trains what it trains on one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from robustalign.objectives import AmbiguitySet, KLBall, WassersteinBall
from tests.conftest import tiny_llama

pytest.importorskip("trl")

BALLS = {"kl": KLBall(radius=0.2), "wasserstein": WassersteinBall(radius=0.1)}


def trained(folder: Path, ranks: int, name: str) -> tuple[torch.Tensor, float]:
    """The parameters after four steps of four pairs each, and the last loss."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig

    from robustalign.integrations.trl import RobustDPOTrainer

    ball: AmbiguitySet = BALLS[name]
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    words = ("fine, and you?", "tea", "hello there!", "i read a lot of old ones", "no", "why do you ask me?", "bye")
    rows = Dataset.from_dict(
        {
            "prompt": ["how are you?", "do you like tea or coffee?", "hi", "what is your favourite book?"] * 4,
            "chosen": [words[i % 7] for i in range(16)],
            "rejected": [words[(3 * i + 1) % 7] + "." for i in range(16)],
        }
    )
    args = DPOConfig(
        output_dir=str(folder / f"{name}{ranks}"), per_device_train_batch_size=1,
        gradient_accumulation_steps=4 // ranks,
        beta=0.3, report_to=[], bf16=False, use_cpu=True, max_length=64, max_steps=4, learning_rate=3e-3,
        logging_steps=1, save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential", seed=5,
        ddp_backend="gloo" if ranks > 1 else None,
    )  # fmt: skip
    policy, reference = (tiny_llama(vocabulary=len(tokenizer), seed=seed) for seed in (1, 2))
    trainer = RobustDPOTrainer(
        model=policy, ref_model=reference, args=args, train_dataset=rows, processing_class=tokenizer, ambiguity_set=ball
    )
    trainer.train()
    return torch.cat([p.detach().flatten() for p in policy.parameters()]), trainer.state.log_history[-2]["loss"]


def on_a_rank(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in places.items()}
    found = {name: trained(folder, 2, name)[0] for name in BALLS}
    if rank == 0:
        torch.save(found, folder / "two.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_ranks_train_what_one_does(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    mp.spawn(on_a_rank, (free_port(), tmp_path), nprocs=2)
    two = torch.load(tmp_path / "two.pt")
    start = torch.cat([p.detach().flatten() for p in tiny_llama(vocabulary=len(tokenizer), seed=1).parameters()])
    for name in BALLS:
        one, _ = trained(tmp_path, 1, name)
        moved, apart = float((one - start).norm()), float((one - two[name]).norm())
        print(f"{name}: moved {moved:.3g}, two ranks apart by {apart:.1e}")
        assert moved > 0.1 and apart < 1e-3 * moved, (name, moved, apart)
    kl, wasserstein = two["kl"], two["wasserstein"]
    assert float((kl - wasserstein).norm()) > 1e-2, "the sets differ, so that neither is the plain mean"
