"""The rates as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from robustalign.report.style import colour, drawing, legend_below, panels, plain_ticks, save
from robustalign.theory.rates import FIXED, summary

LINE = {"": "-", FIXED: "-", "shrinking": (0, (4, 1.5))}


def draw_rates(table: pd.DataFrame, fitted: pd.DataFrame, folder: Path) -> Path:
    """Error and worst-case loss against n, means over seeds with 95 % bars; returns the png."""
    with drawing():
        figure, ((left, right),) = panels(2, width=4.2, height=3.4)
        slope = dict(zip(zip(fitted["method"], fitted["radius"], strict=True), fitted["slope"], strict=True))
        _curves(left, table, "error", {key: f", {value:.2f}" for key, value in slope.items()})
        _guide(left, table)
        left.set(xscale="log", yscale="log", xlabel="pairs n", ylabel="distance from the population's optimum")
        excess = table.assign(excess=table["worst"] - table["best"])
        _curves(right, excess, "excess", {})
        right.set(xscale="log", yscale="log", xlabel="pairs n", ylabel="worst-case loss above the best, nats")
        for panel in (left, right):
            plain_ticks(panel.xaxis)
            plain_ticks(panel.yaxis)
        left.set_title("estimation error, with slopes")
        right.set_title("loss under adversarial re-weighting")
        legend_below(figure)
        return save(figure, folder, "rates")


def _curves(panel: Axes, table: pd.DataFrame, value: str, notes: dict[tuple[str, str], str]) -> None:
    for (method, rule), (n, mean, half) in summary(table, value).items():
        label = f"{method} {rule}".strip() + notes.get((method, rule), "") if notes else None
        style = {"color": colour(method), "linestyle": LINE[rule], "linewidth": 1.5}
        panel.errorbar(n, mean, half, capsize=2, label=label, **style)  # type: ignore[arg-type]


def _guide(panel: Axes, table: pd.DataFrame) -> None:
    """The theory's n^(-1/4) from the first point of KLDPO."""
    n, mean, _ = summary(table, "error")["kldpo", FIXED]
    where = np.array([n[0], n[-1]], float)
    panel.plot(where, mean[0] * (where / n[0]) ** -0.25, color="#b0b0b0", linewidth=1, label="slope -1/4")
