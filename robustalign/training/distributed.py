"""The ranks, the processes that train one policy together: their number, this one's, and what they exchange.

Without a process group there is one rank, and nothing is communicated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this process is; rank 0 leads and alone writes files."""
    return dist.get_rank() if world() > 1 else 0


def barrier() -> None:
    """Wait until every rank has arrived here."""
    if world() > 1:
        counts(0)


@contextmanager
def leader_first() -> Iterator[None]:
    """Rank 0 runs the block before the others, which then find what it built."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def leave() -> None:
    """Leave the process group: from here on this process is a single rank."""
    if world() > 1:
        dist.destroy_process_group()


def counts(*numbers: int) -> list[list[int]]:
    """A few numbers of each rank, as ``[ranks][numbers]`` on every rank."""
    if world() == 1:
        return [list(numbers)]
    counts_here = torch.tensor(numbers, device=_device())
    parts = [torch.empty_like(counts_here) for _ in range(world())]
    dist.all_gather(parts, counts_here)
    return [part.tolist() for part in parts]


def anywhere(flag: bool) -> bool:
    """Whether a flag is set on any rank."""
    return any(raised for (raised,) in counts(int(flag)))


def summed(tensor: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def gathered(column: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, slice]:
    """A column ``[N, ...]`` of all ranks, which may differ in length, and where this rank's part lies.

    ``lengths``: of each rank's part, where they are known.
    """
    if world() == 1:
        return column, slice(None)
    sizes = [n for (n,) in counts(len(column))] if lengths is None else list(lengths)
    behind = (0, 0) * (column.ndim - 1) + (0, max(sizes) - len(column))
    padded = torch.nn.functional.pad(column.detach(), behind).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    start = sum(sizes[: rank()])
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), slice(start, start + len(column))


def _device() -> torch.device:
    """The device of the tensors that the process group communicates."""
    return torch.device("cpu" if "gloo" in str(dist.get_backend_config()) else "cuda")
