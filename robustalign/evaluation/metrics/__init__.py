"""What is measured: one object for each metric, found in the modules of this package.

A new metric is one new module here that makes a :class:`PairMetric` or a :class:`ReplyMetric`. Runs then compute it,
``results/targets.csv`` holds it, and reports compare methods by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from robustalign.evaluation.metrics.metric import WHOLE, Cell, Metric, PairMetric, Replies, ReplyMetric


def _registry() -> Mapping[str, Metric]:
    """Every metric of the package's modules by its name, in the order of reports."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    metrics = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, Metric)}
    by_name: dict[str, Metric] = {}
    for metric in sorted(metrics.values(), key=lambda metric: (metric.rank, metric.name)):
        if metric.name in by_name:
            raise ValueError(f"name: two metrics are called {metric.name!r}")
        by_name[metric.name] = metric
    return MappingProxyType(by_name)


METRICS = _registry()
PAIR_METRICS = tuple(metric for metric in METRICS.values() if isinstance(metric, PairMetric))
REPLY_METRICS = tuple(metric for metric in METRICS.values() if isinstance(metric, ReplyMetric))

__all__ = [
    "METRICS",
    "PAIR_METRICS",
    "REPLY_METRICS",
    "WHOLE",
    "Cell",
    "Metric",
    "PairMetric",
    "Replies",
    "ReplyMetric",
]
