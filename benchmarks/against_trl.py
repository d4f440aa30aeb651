"""Our DPO step against TRL's DPOTrainer on the same tokens: time, peak memory, and how far the gradients differ.

TRL at its best here: reference log-probs precomputed, no gradient checkpointing, fp32. Both start from a collated
batch and end with a gradient; TRL's data pipeline and ours are left out.

Run: python benchmarks/against_trl.py [--model smollm2_135m --pairs 8 --prompt 40]
"""

from __future__ import annotations

import copy
import tempfile

import torch
import trl
from datasets import Dataset
from measure import arguments, interleaved, load, peak_bytes, ratio, report, sampled_pairs, shown
from step_cost import DPO, step

from robustalign.data.pairs import PairCollator


def main() -> None:
    """Table and JSON."""
    options = arguments(__doc__, repeats=7)
    model, tokenizer = load(options)
    pairs = sampled_pairs(model, tokenizer.pad_token_id, tokenizer.eos_token_id, options.pairs, options.prompt)
    batch = PairCollator(tokenizer.pad_token_id)(pairs)
    ours = step(model, DPO, [{key: column.to(options.device) for key, column in batch.items()}])

    settings = trl.DPOConfig(
        output_dir=tempfile.mkdtemp(), beta=DPO["beta"], precompute_ref_log_probs=True, gradient_checkpointing=False,
        bf16=options.dtype == "bfloat16", use_cpu=options.device == "cpu", report_to=[], disable_tqdm=True,
    )  # fmt: skip
    a_pair = Dataset.from_list([{"prompt": "hi", "chosen": "hello", "rejected": "no"}])
    theirs_model = copy.deepcopy(model)
    trainer = trl.DPOTrainer(model=theirs_model, args=settings, train_dataset=a_pair, processing_class=tokenizer)
    examples = [
        {
            "prompt_ids": e["prompt"],
            "chosen_ids": e["chosen"],
            "rejected_ids": e["rejected"],
            "ref_chosen_logps": e["reference"][0],
            "ref_rejected_logps": e["reference"][1],
        }
        for e in pairs
    ]
    their_batch = {key: column.to(options.device) for key, column in trainer.data_collator(examples).items()}

    def theirs() -> None:
        theirs_model.zero_grad()
        trainer.compute_loss(theirs_model, dict(their_batch)).backward()

    seconds = interleaved({"ours": ours, "TRL": theirs}, options.repeats, options.device)
    memory = {"ours": peak_bytes(model, ours), "TRL": peak_bytes(theirs_model, theirs)}
    a, b = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (model, theirs_model))
    figures = {
        "speed": ratio(seconds["TRL"], seconds["ours"]),
        "memory": memory["ours"] / memory["TRL"],
        "pairs_per_second": {name: len(pairs) / sorted(s)[len(s) // 2] for name, s in seconds.items()},
        "gradient_difference": float((a - b).norm() / b.norm()),
        "trl": trl.__version__,
    }
    rates = figures["pairs_per_second"]
    row = [shown(figures["speed"]), f"{rates['ours']:.1f}", f"{rates['TRL']:.1f}", f"{figures['memory']:.2f}"]
    header = ["times TRL's speed", "our pairs/s", "TRL's", "our peak memory over TRL's", "gradient difference"]
    report(
        f"DPO against TRL {trl.__version__}",
        header,
        [[*row, f"{figures['gradient_difference']:.1e}"]],
        figures,
        options,
    )


if __name__ == "__main__":
    main()
