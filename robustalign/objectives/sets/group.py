"""The worst mixture of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from robustalign.bounds import inside, one_of
from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob, WorstLaw, on_the_largest, stand_in

FORMS = ("exact", "online")


@dataclass(kw_only=True, eq=False)
class GroupBall(AmbiguitySet):
    """Mixtures sum_g a_g Q(. | g) of the groups' laws, a in the whole simplex: the worst group.

    ``exact`` puts all mass on the group with the largest mean loss in the batch. ``online`` is exponentiated
    gradient ascent (Sagawa et al., arXiv 1911.08731, Alg. 1; for preferences Ramesh et al., arXiv 2405.20304):
    a_g <- a_g exp(step_size L_g) / Z with the mean loss L_g of the group, from equal shares on. L_g is measured from
    the batch's mean, which changes nothing while all groups are in the batch and leaves an absent group's share in
    place whatever the level of the losses. Shares are renormalised over the groups in the batch.

    The dual variable is the largest mean loss of a group. The divergence is the total variation between the groups'
    shares and their nominal ones.

    Args:
        form: ``exact`` or ``online``; ``online`` learns, and :meth:`state_dict` holds its shares.
        step_size: of the online form, > 0, in 1 / loss; 0.01 in the papers.
    """

    name: ClassVar[str] = "group"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("step_size", "1 / loss"),)
    needs: ClassVar[frozenset[str]] = frozenset({"group"})
    form: str = field(default="online", metadata=one_of(FORMS))
    step_size: float = field(default=0.01, metadata=inside("(0, inf)", "the papers use 0.01"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._log_shares = torch.zeros(0, dtype=torch.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """``log_shares`` ``[G]``: log a_g up to a constant, of the groups 0 to G - 1."""
        return {"log_shares": self._log_shares.clone()} if self.form == "online" else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.form == "exact":
            super().load_state_dict(state)
        else:
            self._log_shares = state["log_shares"].to("cpu", torch.float64).clone()

    def _learn(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        if self.form == "online":
            present = _groups(stand_in(losses), prior, group)
            shares = self._shares_of(present.ids)
            shares[present.ids] += self.step_size * (present.means - (present.nominal * present.means).sum())
            self._log_shares = shares
        return self._worst_law(losses, prior, group)

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        present = _groups(losses, prior, group)
        if self.form == "exact":
            shares = on_the_largest(present.means, present.nominal)
        else:
            shares = torch.softmax(self._shares_of(present.ids)[present.ids], 0)
        return WorstLaw(
            probabilities=prior * (shares / present.nominal)[present.index],
            dual=float(present.means.max()),
            divergence=float((shares - present.nominal).abs().sum()) / 2,
        )

    def _shares_of(self, ids: Tensor) -> Tensor:
        """A copy of log a_g up to a constant, long enough for these groups; a new group starts at 0."""
        size = max(len(self._log_shares), int(ids.max()) + 1)
        return torch.nn.functional.pad(self._log_shares, (0, size - len(self._log_shares)))


@dataclass(frozen=True, kw_only=True)
class _Groups:
    ids: Tensor
    """``[G]`` groups with positive prior weight."""
    index: Tensor
    """``[N]`` position in ``ids`` of each pair's group; 0 for pairs of prior weight 0."""
    nominal: Tensor
    """``[G]`` prior mass."""
    means: Tensor
    """``[G]`` mean loss."""


def _groups(losses: Tensor, prior: Tensor, group: Tensor | None) -> _Groups:
    assert group is not None
    inside = prior > 0
    if bool((group[inside] < 0).any()):
        raise ValueError("group: ids must be >= 0")
    ids, positions = torch.unique(group[inside], return_inverse=True)
    index = torch.zeros_like(group, dtype=torch.int64)
    index[inside] = positions
    nominal = torch.zeros(len(ids), dtype=torch.float64).index_add(0, positions, prior[inside])
    sums = torch.zeros(len(ids), dtype=torch.float64).index_add(0, positions, (prior * losses)[inside])
    return _Groups(ids=ids, index=index, nominal=nominal, means=sums / nominal)
