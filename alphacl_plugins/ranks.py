"""Embeddings of all ranks, with the gradient flowing back to the rank they came from."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """How many processes train together; 1 where torch.distributed is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_views(views: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """Gather each view from all ranks, in rank order, and say where this rank's samples begin.

    The gradient of a gathered row is the sum over ranks, so that after DDP has averaged the parameter gradients they
    equal those of one process with the whole batch. One collective serves all views; with one process there is none.

    Args:
        views: embeddings of this rank, each ``[N, D]``, with the same N and D on every rank.

    Returns: the views with ``world_size * N`` rows each, and the index of this rank's first row in them.
    Raises: ValueError, on every rank, if the shapes differ between ranks.
    """
    if world_size() == 1:
        return list(views), 0
    stacked = torch.stack(list(views))
    check_equal_shapes("z", stacked)
    by_rank: Tensor = _Gather.apply(stacked)
    return list(torch.cat(list(by_rank), dim=1)), dist.get_rank() * stacked.shape[1]


def gather_labels(labels: Tensor) -> Tensor:
    """Gather labels ``[N]`` from all ranks, in rank order; `gather_views`, which compares N, goes first."""
    return labels if world_size() == 1 else torch.cat(_from_all_ranks(labels))


def gather_rows(name: str, rows: Tensor) -> Tensor:
    """Gather rows ``[N, D]`` from all ranks, in rank order, without gradient.

    Raises: ValueError, on every rank, if the shapes differ between ranks; ``name`` is what the message calls them.
    """
    if world_size() == 1:
        return rows
    check_equal_shapes(name, rows[None])
    return torch.cat(_from_all_ranks(rows))


class _Gather(torch.autograd.Function):
    """``x`` of every rank, stacked; backward, the sum over ranks of the gradients of this rank's ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.stack(_from_all_ranks(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def check_equal_shapes(name: str, stacked: Tensor) -> None:
    """Compare shapes across ranks before anything large is exchanged: a mismatch would hang or corrupt later.

    Raises: ValueError, on every rank, if the views ``[V, N, D]`` of the ranks differ in shape.
    """
    mine = torch.tensor(stacked.shape, device=stacked.device)
    shapes = torch.stack(_from_all_ranks(mine)).tolist()
    if any(shape != shapes[0] for shape in shapes):
        listing = ", ".join(f"rank {rank}: {shape[1:]}" for rank, shape in enumerate(shapes))
        raise ValueError(f"{name}: expected the same shape [N, D] on every rank to gather, got {listing}")


def _from_all_ranks(x: Tensor) -> list[Tensor]:
    by_rank = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(by_rank, x.contiguous())
    return by_rank
