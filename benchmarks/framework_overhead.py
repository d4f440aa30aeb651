"""Our training loop against a bare one: the same pairs, steps, forward, clipping and optimiser.

What is ours alone: data loading, the objective's plan, metrics of every step into a journal, the Trainer's own
machinery, start and end included.

Run: python benchmarks/framework_overhead.py
"""

from __future__ import annotations

import copy
import gc
import tempfile
from pathlib import Path

import torch
from measure import Example, arguments, interleaved, load, ratio, report, sampled_pairs, shown
from step_cost import DPO
from torch.nn.functional import logsigmoid
from torch.utils.data import Dataset

from robustalign.config import TrainerConfig
from robustalign.data.pairs import PairCollator
from robustalign.policies.logprobs import sequence_logps
from robustalign.run.journal import Journal
from robustalign.training.objective import build_objective
from robustalign.training.steps import rows_of
from robustalign.training.trainer import PairTrainer

STEPS = 40


class Examples(Dataset):
    """The same pairs at every step."""

    def __init__(self, pairs: list[Example]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return STEPS * len(self.pairs)

    def __getitem__(self, index: int) -> Example:
        return self.pairs[index % len(self.pairs)]


def bare(model: torch.nn.Module, pairs: list[Example], config: TrainerConfig, pad: int) -> None:
    """The least code that trains by DPO."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(config.adam_beta1, config.adam_beta2), weight_decay=0.0,
        fused=True,
    )  # fmt: skip
    collate = PairCollator(pad)
    for _ in range(STEPS):
        batch = collate(pairs)
        chosen, rejected = (sequence_logps(model, rows_of(batch)) - batch["ref_logps"]).chunk(2)
        (-logsigmoid(DPO["beta"] * (chosen - rejected)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad()


def main() -> None:
    """Table and JSON."""
    options = arguments(__doc__, repeats=4)
    model, tokenizer = load(options)
    pad = tokenizer.pad_token_id
    pairs = sampled_pairs(model, pad, tokenizer.eos_token_id, options.pairs, options.prompt)
    config = TrainerConfig(
        batch_size=len(pairs), micro_batch_size=len(pairs), max_steps=STEPS, learning_rate=1e-4, device="cpu"
    )

    def trainer() -> PairTrainer:
        folder = Path(tempfile.mkdtemp())
        return PairTrainer(
            copy.deepcopy(model),
            Examples(pairs),
            build_objective(DPO),
            config,
            pad=pad,
            seed=0,
            output=folder,
            log=Journal(folder / "journal.jsonl").metrics,
        )

    rounds = options.repeats + 1
    trainers, models = iter([trainer() for _ in range(rounds)]), iter([copy.deepcopy(model) for _ in range(rounds)])
    contestants = {
        "framework": lambda: next(trainers).train(),
        "bare": lambda: bare(next(models), pairs, config, pad),
    }
    gc.freeze()  # as in the process that runs are forked from: the Trainer's clean-up need not look at all imports
    seconds = interleaved(contestants, options.repeats)
    time = ratio(seconds["framework"], seconds["bare"])
    figures = {"framework": {"over a bare loop": time, "steps": STEPS}}
    report("Framework against a bare loop", ["time"], [[shown(time)]], figures, options)


if __name__ == "__main__":
    main()
