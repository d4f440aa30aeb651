"""Where overlooked pairs can be told from noise: detection and its evidence on the shipped policy's candidates.

python benchmarks/groups_screen.py [DATASET_SEED ...]

For each data set seed (default 11 21) and each population, one draw of pairs: the held-out gain with its interval, the
reversal, whether the stage believes, and how well the minority (or the flipped labels) was found. Markdown on stdout.
"""

from __future__ import annotations

import sys
import tempfile

from hydra import compose, initialize_config_dir

from robustalign.checks import resolve
from robustalign.config import config_dir, register
from robustalign.data.pairs import training_pairs
from robustalign.pipeline.groups import GroupStage
from robustalign.pipeline.stages import Stages

MINORITIES = (
    ("ask", "joy", 0.03), ("ask", "joy", 0.1), ("ask", "joy", 0.2), ("ask", "joy", 0.4), ("ask", "sadness", 0.1),
    ("ask", "short", 0.1), ("short", "ask", 0.1), ("short", "joy", 0.1), ("joy", "short", 0.1), ("joy", "ask", 0.1),
)  # fmt: skip
NOISE = tuple((name, f"-{name}", share) for name in ("ask", "short", "joy") for share in (0.0, 0.02, 0.1, 0.3))


def screen(cache: str, seed: int, majority: str, minority: str, share: float) -> str:
    """One line of the table."""
    overrides = [
        "groups=overlooked",
        f"shift.objectives=[{majority},{minority}]",
        f"shift.nominal={1 - share}",
        f"dataset.seed={seed}",
        f"seed={seed}",
        f"paths.cache={cache}",
    ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = resolve(compose("config", overrides=overrides))
    stages = Stages(config)
    candidates = stages.candidates("train")
    pairs = training_pairs(stages.shift, candidates, config.dataset.pairs, config.seed, None)
    found = GroupStage(stages, pairs, candidates).groups().evidence
    agreement = next((a for a in found.agreement if a.column == "population"), None)
    name = f"flipped {majority}" if minority.startswith("-") else f"{majority}, {minority}"
    told = f"{agreement.auc:.2f} | {agreement.precision:.2f} | {agreement.recall:.2f}" if agreement else "| |"
    return (
        f"| {name} | {share:.0%} | {found.gain:+.3f} [{found.low:+.3f}, {found.high:+.3f}] | "
        f"{found.facts['reversal']:.2f} | {'yes' if found.believable else 'no'} | {found.shares[1]:.3f} | {told} |"
    )


def main() -> None:
    register()
    seeds = [int(seed) for seed in sys.argv[1:]] or [11, 21]
    with tempfile.TemporaryDirectory() as cache:
        for seed in seeds:
            print(f"\ndata set seed {seed}\n")
            print("| population | share | gain | reversal | believed | overlooked | AUC | precision | recall |")
            print("|---|---|---|---|---|---|---|---|---|")
            for case in (*MINORITIES, *NOISE):
                print(screen(cache, seed, *case), flush=True)


if __name__ == "__main__":
    main()
