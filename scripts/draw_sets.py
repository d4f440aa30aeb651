"""Draws docs/pictures/weights.png: the weight that each ambiguity set gives a pair, as a function of its loss.

The losses are those of 400 pairs whose margins beta h are normal with mean 1 and deviation 1.5. Run it again after a
change to a set:  python scripts/draw_sets.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import softplus

from robustalign.objectives import AmbiguitySet, ChiSquareBall, CVaR, KLBall, Nominal, TVBall
from robustalign.report.style import drawing, panels, save

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
SETS: dict[str, dict[str, AmbiguitySet]] = {
    "one divergence, three strengths: KL": {
        "nominal (DPO)": Nominal(),
        "radius 0.05 nats": KLBall(radius=0.05),
        "radius 0.2": KLBall(radius=0.2),
        "radius 0.5": KLBall(radius=0.5),
    },
    "balls of different shape": {
        "KL, radius 0.2": KLBall(radius=0.2),
        "chi-square, radius 0.2": ChiSquareBall(radius=0.2),
        "CVaR, alpha 0.5": CVaR(alpha=0.5),
        "total variation, radius 0.1": TVBall(radius=0.1),
    },
    "the sign of the tilt, temperature 0.5": {
        "KLDPO": KLBall(temperature=0.5),
        "KLDPO, released code (clamp 10)": KLBall(temperature=0.5, normalized=False, clamp=10.0),
        "Dr. DPO (optimistic)": KLBall(temperature=0.5, direction="optimistic"),
    },
}
COLOURS = ("#3c3c3c", "#0072b2", "#d55e00", "#009e73")
LINES = ("-", "--", "-.", ":")


def main() -> None:
    """One panel for each group of sets."""
    torch.set_num_threads(1)
    probability = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    losses = softplus(-(1 + 1.5 * torch.special.ndtri(probability))).sort().values
    with drawing():
        figure, (row,) = panels(len(SETS), width=3.7, height=3.2)
        for panel, (title, sets) in zip(row, SETS.items(), strict=True):
            for (label, ball), colour, line in zip(sets.items(), COLOURS, LINES, strict=False):
                weights = ball.worst_case(losses).weights
                steps = "steps-mid" if isinstance(ball, CVaR | TVBall) else "default"
                panel.plot(losses, weights, label=label, color=colour, ls=line, linewidth=1.6, drawstyle=steps)
            panel.set(xlabel="loss of the pair, nats", title=title)
            panel.set_yscale("log", nonpositive="clip")
            panel.set(ylim=(0.04, 200))
            panel.set_yticks([0.1, 0.3, 1, 3, 10, 30, 100], ["0.1", "0.3", "1", "3", "10", "30", "100"])
            panel.legend(loc="upper left")
        row[0].set_ylabel("weight of the pair (1: as in DPO)")
        PICTURES.mkdir(parents=True, exist_ok=True)
        print(save(figure, PICTURES, "weights"))


if __name__ == "__main__":
    main()
