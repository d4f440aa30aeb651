"""Rows of prompt and completion, and the same rows packed so that nothing is computed twice or for padding.

A *tree* is a prompt followed by its completions; a packed row holds whole trees, one after the other. A token sees
the prompt of its tree and the part of its own completion before it, at the positions it would have in a row of its
own, so every hidden state is the one of the padded layout (prefix sharing: arXiv 2410.20305). The last token of a
completion predicts nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Rows:
    """Right-padded rows: ``ids [R,T]`` int64, ``attention [R,T]`` and ``completion [R,T]`` bool.

    ``tree [R]`` int64: rows of one number and with one prompt may share its computation; None: no row shares.
    """

    ids: Tensor
    attention: Tensor
    completion: Tensor
    tree: Tensor | None = None

    @classmethod
    def collate(
        cls,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        pad: int,
        tree: Sequence[int] | None = None,
    ) -> Rows:
        """Rows of ``prompt + completion``; masks come from lengths, so a pad id that equals EOS is harmless."""
        ids = [torch.tensor([*p, *c]) for p, c in zip(prompts, completions, strict=True)]
        padded = pad_sequence(ids, batch_first=True, padding_value=pad)
        position = torch.arange(padded.shape[1])
        starts = torch.tensor([len(p) for p in prompts])[:, None]
        ends = torch.tensor([len(row) for row in ids])[:, None]
        attention = position < ends
        return cls(padded, attention, attention & (position >= starts), None if tree is None else torch.tensor(tree))

    def only(self, chosen: Sequence[int]) -> Rows:
        """Some of the rows, no wider than they need."""
        width = int(self.attention[list(chosen)].sum(1).max())
        ids, attention, completion = (
            part[list(chosen), :width] for part in (self.ids, self.attention, self.completion)
        )
        return Rows(ids, attention, completion, None if self.tree is None else self.tree[list(chosen)])

    def to(self, device: torch.device | str) -> Rows:
        tree = None if self.tree is None else self.tree.to(device)
        return Rows(self.ids.to(device), self.attention.to(device), self.completion.to(device), tree)

    @property
    def prompt(self) -> Tensor:
        """``[R,T]`` bool: prompt positions."""
        return self.attention & ~self.completion

    @property
    def predictors(self) -> Tensor:
        """``[R,T]`` bool: the positions whose next token belongs to the completion."""
        shifted = torch.zeros_like(self.completion)
        shifted[:, :-1] = self.completion[:, 1:]
        return shifted


@dataclass(frozen=True)
class Packed:
    """Where the tokens of ``Rows`` lie in ``P`` packed rows of width ``W``; padding is isolated.

    ``source [P,W]`` int64: flat index into ``[R,T]``. ``position [P,W]`` int64: position id. ``visible [P,1,W,W]``
    bool: which keys a query sees. ``predictors``: row and column, ``[K]`` int64 each, of the position that predicts
    each completion token, in row order.
    """

    source: Tensor
    position: Tensor
    visible: Tensor
    predictors: tuple[Tensor, Tensor]


def pack(rows: Rows, width: int = 0) -> Packed:
    """Trees of ``rows`` in packed rows no wider than the longest tree or ``width``."""
    stride = rows.ids.shape[1]
    starts, ends = rows.prompt.sum(1).cpu().numpy(), rows.attention.sum(1).cpu().numpy()
    trees, lengths = trees_of(rows)
    places, shape = _first_fit(lengths, max(width, *lengths))

    source, position, owner, branch = np.zeros((4, *shape), dtype=np.int64)
    predictors: list[np.ndarray] = [np.empty(0)] * len(rows.ids)
    for number, (rows_of_tree, (line, at)) in enumerate(zip(trees, places, strict=True), start=1):
        first, root = rows_of_tree[0], at
        spans = [(first, 0, int(starts[first]), 0)]
        spans += [(row, int(starts[row]), int(ends[row]) - 1, i) for i, row in enumerate(rows_of_tree, start=1)]
        for row, begin, end, kind in spans:
            span = slice(at, at + end - begin)
            source[line, span] = np.arange(row * stride + begin, row * stride + end)
            position[line, span] = np.arange(begin, end)
            owner[line, span], branch[line, span] = number, kind
            if kind:
                before = np.arange(at - 1, at + end - begin)
                before[0] = root + begin - 1
                predictors[row] = line * shape[1] + before
            at += end - begin
    device = rows.ids.device
    where = torch.from_numpy(np.concatenate(predictors)).to(device)
    return Packed(
        source=torch.from_numpy(source).to(device),
        position=torch.from_numpy(position).to(device),
        visible=_visible(torch.from_numpy(owner).to(device), torch.from_numpy(branch).to(device)),
        predictors=(where // shape[1], where % shape[1]),
    )


def trees_of(rows: Rows) -> tuple[list[list[int]], list[int]]:
    """The rows of each tree, and how many positions it takes when it is packed."""
    ids = rows.ids.cpu().numpy()
    starts, ends = rows.prompt.sum(1).cpu().numpy(), rows.attention.sum(1).cpu().numpy()
    tree = np.arange(len(ids)) if rows.tree is None else rows.tree.cpu().numpy()
    members: dict[tuple[int, bytes], list[int]] = {}
    for row, start in enumerate(starts):
        members.setdefault((int(tree[row]), ids[row, :start].tobytes()), []).append(row)
    trees = list(members.values())
    return trees, [int(starts[m[0]] + sum(ends[row] - 1 - starts[row] for row in m)) for m in trees]


def _first_fit(lengths: Sequence[int], width: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """First-fit packing, the longest item first: line and column of each item, the number of lines and their width."""
    places, widths = [(0, 0)] * len(lengths), list[int]()
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((i for i, width_so_far in enumerate(widths) if width_so_far + lengths[item] <= width), len(widths))
        if line == len(widths):
            widths.append(0)
        places[item] = (line, widths[line])
        widths[line] += lengths[item]
    return places, (len(widths), max(widths))


def _visible(owner: Tensor, branch: Tensor) -> Tensor:
    """``[P,1,W,W]`` bool from the tree and the branch (0: prompt) of each position, ``[P,W]`` each."""
    same_tree = owner[:, :, None] == owner[:, None, :]
    same_branch = (branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)
    return (same_tree & same_branch).tril().unsqueeze(1)
