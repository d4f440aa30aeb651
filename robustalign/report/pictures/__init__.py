"""The pictures of a report. Each function draws one figure, or returns None where there is nothing to draw."""

from robustalign.report.pictures.certificates import certificates
from robustalign.report.pictures.populations import heat_map, radar, robustness_curves
from robustalign.report.pictures.profile import profiles
from robustalign.report.pictures.reliability import reliability_diagram
from robustalign.report.pictures.trade_off import gap_closed, trade_off
from robustalign.report.pictures.training import costs, learning_curves

__all__ = [
    "certificates",
    "costs",
    "gap_closed",
    "heat_map",
    "learning_curves",
    "profiles",
    "radar",
    "reliability_diagram",
    "robustness_curves",
    "trade_off",
]
