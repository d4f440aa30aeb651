"""The worst mixture of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from robustalign.bounds import inside, one_of
from robustalign.objectives.ambiguity_set import AmbiguitySet, Knob, WorstLaw, on_the_largest, stand_in

FORMS = ("exact", "online")


@dataclass(kw_only=True, eq=False)
class GroupBall(AmbiguitySet):
    """Mixtures sum_g a_g Q(. | g) of the groups' laws, a in the whole simplex: the worst group.

    Groups are ids, or memberships m_ig whose rows sum to 1: then Q(i | g) is proportional to q_i m_ig, and the mean
    loss of a group is L_g = sum_i q_i m_ig l_i / sum_i q_i m_ig.

    ``exact`` puts all mass on the group with the largest L_g. ``online`` is exponentiated gradient ascent (Sagawa et
    al., arXiv 1911.08731, Alg. 1; for preferences Ramesh et al., arXiv 2405.20304): a_g <- a_g exp(step_size L_g) / Z,
    from equal shares on. L_g is measured from the batch's mean, which changes nothing while all groups are in the batch
    and leaves an absent group's share in place whatever the level of the losses. Shares are renormalised over the
    groups in the batch.

    With ``memory`` L_g is a running mean over batches, in which a batch counts ``memory`` times the next one: a small
    group's mean in one batch is mostly noise (after the debiased running means of arXiv 2601.19280). With
    ``attainable`` L_g is a regret, the loss beyond what the group can attain: a hopeless group does not take all mass
    (minimax regret, Agarwal and Zhang, arXiv 2202.13793).

    The dual variable is the largest L_g. The divergence is the total variation between the groups' shares and their
    nominal ones.

    Args:
        form: ``exact`` or ``online``; ``online`` learns, and :meth:`state_dict` holds its shares.
        step_size: of the online form, > 0, in 1 / loss; 0.01 in the papers.
        memory: in [0, 1); 0 is the batch alone.
        attainable: loss L_g* of each group 0 to G - 1; null measures the loss itself.

    Example:
        >>> import torch
        >>> losses, group = torch.tensor([1.0, 3.0]), torch.tensor([0, 1])
        >>> GroupBall(step_size=1.0).step(losses, group=group).weights  # weights e^1 : e^3
        tensor([0.2384, 1.7616])
    """

    name: ClassVar[str] = "group"
    knobs: ClassVar[tuple[Knob, ...]] = (Knob("step_size", "1 / loss"),)
    needs: ClassVar[frozenset[str]] = frozenset({"group"})
    form: str = field(default="online", metadata=one_of(FORMS))
    step_size: float = field(default=0.01, metadata=inside("(0, inf)", "the papers use 0.01"))
    memory: float = field(default=0.0, metadata=inside("[0, 1)", "0 is the batch alone"))
    attainable: list[float] | None = field(default=None, metadata=inside("(-inf, inf)"))

    def __post_init__(self) -> None:
        super().__post_init__()
        self._log_shares = torch.zeros(0, dtype=torch.float64)
        self._sums = torch.zeros(2, 0, dtype=torch.float64)

    def state_dict(self) -> dict[str, Tensor]:
        """``log_shares`` ``[G]``: log a_g up to a constant, of the groups 0 to G - 1; ``sums`` ``[2, G]``: remembered
        mass and mass times loss of each group."""
        state = {"log_shares": self._log_shares.clone()} if self.form == "online" else {}
        return state | ({"sums": self._sums.clone()} if self.memory else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not self.state_dict():
            super().load_state_dict(state)
        if self.form == "online":
            self._log_shares = state["log_shares"].to("cpu", torch.float64).clone()
        if self.memory:
            self._sums = state["sums"].to("cpu", torch.float64).clone()

    def _learn(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        if self.form == "online":
            present = self._groups(stand_in(losses), prior, group)
            shares = _longer(self._log_shares, present.ids)
            shares[present.ids] += self.step_size * (present.means - (present.nominal * present.means).sum())
            self._log_shares = shares
        law = self._worst_law(losses, prior, group)
        if self.memory and bool(torch.isfinite(losses[prior > 0]).all()):
            batch = _groups(losses, prior, group)
            sums = _longer(self._sums, batch.ids)
            sums[:, batch.ids] += torch.stack([batch.nominal, batch.nominal * batch.means])
            self._sums = self.memory * sums
        return law

    def _worst_law(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> WorstLaw:
        present = self._groups(losses, prior, group)
        if self.form == "exact":
            shares = on_the_largest(present.means, present.nominal)
        else:
            shares = torch.softmax(_longer(self._log_shares, present.ids)[present.ids], 0)
        return WorstLaw(
            probabilities=prior * (present.membership * (shares / present.nominal)).sum(1),
            dual=float(present.means.max()),
            divergence=float((shares - present.nominal).abs().sum()) / 2,
        )

    def _groups(self, losses: Tensor, prior: Tensor, group: Tensor | None) -> _Groups:
        """The batch's groups, their means over memory and batch, and beyond what they can attain."""
        batch = _groups(losses, prior, group)
        means = batch.means
        if self.memory:
            mass, total = _longer(self._sums, batch.ids)[:, batch.ids]
            means = (total + batch.nominal * means) / (mass + batch.nominal)
        if self.attainable is not None:
            if int(batch.ids.max()) >= len(self.attainable):
                raise ValueError(f"attainable: has {len(self.attainable)} values, the pairs more groups")
            means = means - torch.tensor(self.attainable, dtype=torch.float64)[batch.ids]
        return replace(batch, means=means)


def _longer(values: Tensor, ids: Tensor) -> Tensor:
    """A copy of ``[..., G]`` values, with zeros behind, long enough for these groups."""
    size = max(values.shape[-1], int(ids.max()) + 1)
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class _Groups:
    ids: Tensor
    """``[G]`` groups with positive prior mass."""
    membership: Tensor
    """``[N, G]`` of each pair in them, 0 for pairs of prior weight 0."""
    nominal: Tensor
    """``[G]`` prior mass."""
    means: Tensor
    """``[G]`` mean loss."""


def _groups(losses: Tensor, prior: Tensor, group: Tensor | None) -> _Groups:
    assert group is not None
    inside = prior > 0
    membership = torch.where(inside[:, None], _membership(group, inside), 0.0)
    mass = prior @ membership
    ids = mass.nonzero()[:, 0]
    membership, nominal = membership[:, ids], mass[ids]
    # Means are taken from the smallest loss, so that equal losses have equal means. A pair without part in a group
    # may have an infinite loss: 0 * inf must not reach the sum.
    part = membership > 0
    lowest = torch.where(part, losses[:, None], math.inf).amin(0)
    lowest = torch.where(torch.isinf(lowest), 0.0, lowest)
    above = torch.where(part, membership * (prior[:, None] * (losses[:, None] - lowest)), 0.0).sum(0)
    return _Groups(ids=ids, membership=membership, nominal=nominal, means=lowest + above / nominal)


def _membership(group: Tensor, inside: Tensor) -> Tensor:
    """``[N, G]`` in fp64, of ids ``[N]`` or memberships ``[N, G]``."""
    if group.ndim == 1:
        if bool((group[inside] < 0).any()):
            raise ValueError("group: ids must be >= 0")
        return torch.nn.functional.one_hot(group.clamp(min=0).long()).double()
    values = group.double()
    if not bool((values[inside] >= 0).all()) or not bool(((values[inside].sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError("group: memberships must be >= 0 and sum to 1 in each row")
    return values
