"""What happened while training, and what it cost."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from robustalign.evaluation.metrics import WHOLE
from robustalign.report.compare import KL
from robustalign.report.settings import Setting
from robustalign.report.style import COLOURS, Look, colour, legend_below, note, panels, plain_ticks

PANELS = (
    ("train/nominal_loss", "mean loss of the batch (nats)"),
    ("train/rewards/accuracies", "accuracy on the batch (share)"),
    ("train/rewards/chosen", "implicit reward (nats)\nof chosen, of rejected (thin)"),
    (f"eval/test/{WHOLE}/{KL}", f"{KL.title}\n({KL.unit})"),
    ("train/grad_norm", "gradient norm"),
    ("robust/ess", "effective pairs in a batch"),
    ("robust/weight_max", "largest weight (mean 1)"),
    ("robust/divergence", "realised divergence\n(unit of the set's radius)"),
    ("robust/dual", "temperature or dual (nats)"),
    ("robust/penalty", "penalty (nats)"),
    ("robust/clamped", "share of clamped pairs"),
)
FEW = 12  # values of a curve that are drawn one by one
HISTORIES = (*(name for name, _ in PANELS), "train/rewards/rejected", "cost/step_seconds", "cost/memory_bytes")


def learning_curves(setting: Setting, histories: pd.DataFrame, look: Look) -> Figure | None:
    """Losses, rewards and weights against the optimiser step: the mean over seeds, and their range."""
    logged = set(histories.loc[histories["value"] != 0, "name"])
    panels_to_draw = [(name, label) for name, label in PANELS if name in logged]
    if not panels_to_draw:
        return None
    columns = 4 if len(panels_to_draw) <= 8 else 5
    figure, rows = panels(columns, -(-len(panels_to_draw) // columns), width=12 / columns, height=2.3)
    axes = [panel for row in rows for panel in row]
    for panel, (name, label) in zip(axes, panels_to_draw, strict=False):
        for point in setting.points:
            runs = {run.run_id for run in point.runs.values()}
            for part in (name, "train/rewards/rejected") if name == "train/rewards/chosen" else (name,):
                values = histories[histories["run_id"].isin(runs) & (histories["name"] == part)]
                by_step = values.groupby("step")["value"].agg(["mean", "min", "max"])
                width = 0.6 if part.endswith("rejected") else 1.3
                style: Any = look.line(point) | ({"marker": "o", "markersize": 4} if len(by_step) <= FEW else {})
                panel.plot(by_step.index, by_step["mean"], **style, linewidth=width)
                edge: Any = {"color": colour(point.method), "alpha": 0.1, "linewidth": 0}
                panel.fill_between(by_step.index, by_step["min"], by_step["max"], **edge)
        if name == "robust/divergence":
            panel.set_yscale("symlog", linthresh=1e-3)
            plain_ticks(panel.yaxis)
        panel.set_title(label)
        panel.set_xlabel("optimiser step")
    for panel in axes[len(panels_to_draw) :]:
        panel.set_visible(False)
    seeds = sorted({len(point.seeds) for point in setting.points})
    shown_seeds = "-".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    note(figure, f"lines: means over {shown_seeds} seeds; bands: their range")
    legend_below(figure)
    return figure


def costs(table: pd.DataFrame, setting: Setting) -> Figure | None:
    """Time and memory of a training step relative to dpo."""
    if "step_seconds_ratio" not in table or table["step_seconds_ratio"].isna().all():
        return None
    figure, (axes,) = panels(2, height=0.8 + 0.28 * len(table))
    bottom_up = table.iloc[::-1].reset_index(drop=True)
    for panel, name, label in (
        (axes[0], "step_seconds_ratio", "seconds a step, relative to dpo"),
        (axes[1], "memory_gb_ratio", "peak memory, relative to dpo"),
    ):
        for row, values in bottom_up.iterrows():
            value = values[name]
            arms = [[value - values[f"{name}_low"]], [values[f"{name}_high"] - value]]
            panel.errorbar([value], [row], xerr=arms, color=colour(values["method"]), marker="o", linestyle="")
        panel.set_yticks(range(len(bottom_up)), bottom_up["label"] if panel is axes[0] else [])
        panel.axvline(1, color=COLOURS["dpo"], linewidth=1)
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
    note(figure, "bars: 95 % intervals over seeds, paired; runs may have shared the machine")
    return figure
