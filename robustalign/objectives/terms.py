"""What a preference pair offers to a pair loss or an ambiguity set."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from torch import Tensor

DATA = {"data": True}  # a column that comes with the pair, beside its tokens


@dataclass(frozen=True)
class PairTerms:
    """The named per-pair quantities of ``N`` pairs, each a tensor ``[N]``.

    ``margin`` is always there; each loss and set lists what else it reads in ``needs``. Log-probabilities
    are in nats, summed over the completion's tokens, and never multiplied by beta. Columns of the data are declared
    here alone: training rows, batches and methods carry whatever is declared (``DATA_COLUMNS``).

    Raises:
        ValueError: a column's shape differs from the margin's.
    """

    margin: Tensor
    """h = log[pi(chosen) / ref(chosen)] - log[pi(rejected) / ref(rejected)] (arXiv 2502.01930, section 3)."""
    chosen_logratio: Tensor | None = None
    """log[pi(chosen) / ref(chosen)]."""
    rejected_logratio: Tensor | None = None
    """log[pi(rejected) / ref(rejected)]."""
    chosen_logp: Tensor | None = None
    """log pi(chosen)."""
    rejected_logp: Tensor | None = None
    """log pi(rejected)."""
    chosen_length: Tensor | None = None
    """Scored tokens of the chosen completion."""
    rejected_length: Tensor | None = None
    """Scored tokens of the rejected completion."""
    weight: Tensor | None = field(default=None, metadata=DATA)
    """Prior weight of the pair, >= 0 on any scale: the nominal law; 0 takes a pair out."""
    soft_label: Tensor | None = field(default=None, metadata=DATA)
    """Probability in [0, 1] that chosen really is the preferred one."""
    group: Tensor | None = field(default=None, metadata=DATA)
    """Group id, an integer >= 0; or memberships ``[N, G]`` >= 0 whose rows sum to 1."""
    score_gap: Tensor | None = field(default=None, metadata=DATA)
    """Score of chosen minus score of rejected under the labelling preferences."""
    margin_rounding: Tensor | None = None
    """How far the margin may be off by rounding, >= 0, nats; None: it is exact."""
    policy_weight: Tensor | None = None
    """How likely the policy is to write this pair, > 0 (arXiv 2406.11827, Eq. 2)."""

    def __post_init__(self) -> None:
        for column in fields(self):
            value = getattr(self, column.name)
            shape = None if value is None else value.shape[:1] if column.name == "group" else value.shape
            if shape is not None and shape != self.margin.shape:
                raise ValueError(
                    f"{column.name}: shape {tuple(value.shape)} differs from margin's {tuple(self.margin.shape)}"
                )


DATA_COLUMNS = tuple(column.name for column in fields(PairTerms) if column.metadata.get("data"))
"""Columns that come with a pair."""
COLUMNS = frozenset(column.name for column in fields(PairTerms)) - {"margin", "margin_rounding"}
"""What a loss or a set may list in ``needs``."""
