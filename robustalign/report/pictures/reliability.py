"""How a policy's confidence compares with the votes of people."""

from __future__ import annotations

from matplotlib.figure import Figure

from robustalign.report.people import reliability
from robustalign.report.settings import Setting
from robustalign.report.style import Look, legend_below, note, panels


def reliability_diagram(setting: Setting, look: Look) -> Figure | None:
    """Share of votes that side with the policy, by its confidence; None where no run measured people."""
    with_bins = [(point, bins) for point in setting.points if len(bins := reliability(point, setting.split))]
    if not with_bins:
        return None
    figure, ((panel,),) = panels(1, width=4.6, height=4.0)
    panel.plot([0.5, 1], [0.5, 1], color="#b0b0b0", linewidth=1, label="calibrated")
    for point, bins in with_bins:
        arms = [(bins["agreement"] - bins["low"]).clip(lower=0), (bins["high"] - bins["agreement"]).clip(lower=0)]
        panel.plot(bins["confidence"], bins["agreement"], **look.line(point))
        colour = panel.lines[-1].get_color()
        panel.errorbar(bins["confidence"], bins["agreement"], yerr=arms, linestyle="", color=colour, linewidth=0.8)
    panel.set(xlabel="confidence, sigmoid(beta |h|)", ylabel="share of votes that side with the policy")
    panel.set_title("nominal population, test")
    note(figure, "bars: 95 % intervals over prompts, means over seeds; bins without votes are left out")
    legend_below(figure)
    return figure
