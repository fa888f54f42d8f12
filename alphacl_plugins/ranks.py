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
        views: embeddings of this rank, each ``[N, D]``; the ranks agree, by `check_that_ranks_agree`.

    Returns: the views with ``world_size * N`` rows each, and the index of this rank's first row in them.
    """
    if world_size() == 1:
        return list(views), 0
    stacked = torch.stack(list(views))
    by_rank: Tensor = _Gather.apply(stacked)
    return list(torch.cat(list(by_rank), dim=1)), dist.get_rank() * stacked.shape[1]


def gather_labels(labels: Tensor) -> Tensor:
    """Gather labels ``[N]`` from all ranks, in rank order."""
    return labels if world_size() == 1 else torch.cat(_from_all_ranks(labels))


def gather_rows(name: str, rows: Tensor) -> Tensor:
    """Gather rows ``[N, D]`` from all ranks, in rank order, without gradient.

    Raises: ValueError, on every rank, if the ranks' rows differ in shape or dtype; ``name`` is what the message calls
        them.
    """
    if world_size() == 1:
        return rows
    check_that_ranks_agree(name, [rows])
    return torch.cat(_from_all_ranks(rows))


def check_that_ranks_agree(
    name: str, views: Sequence[Tensor], *, labels: Tensor | None = None, queue: Tensor | None = None
) -> None:
    """Compare what the ranks bring before anything large is exchanged: a mismatch would hang or corrupt later.

    Raises: ValueError, on every rank, if views ``[N, D]`` differ in number, shape or dtype, or only some ranks have
        labels or a queue.
    """
    if world_size() == 1:
        return
    first = views[0]
    mine = [len(views), *first.shape, _DTYPES.index(first.dtype), labels is not None, queue is not None]
    ranks = torch.stack(_from_all_ranks(torch.tensor(mine, device=first.device))).tolist()
    for what, shown in (
        ("shape [N, D]", [[n, d] for _, n, d, *_ in ranks]),
        ("number of views", [rank[0] for rank in ranks]),
        ("dtype", [_DTYPES[rank[3]] for rank in ranks]),
        ("use of labels", ["labels" if rank[4] else "none" for rank in ranks]),
        ("use of a queue", ["a queue" if rank[5] else "none" for rank in ranks]),
    ):
        if any(fact != shown[0] for fact in shown):
            listing = ", ".join(f"rank {rank}: {fact}" for rank, fact in enumerate(shown))
            raise ValueError(f"{name}: expected the same {what} on every rank to gather, got {listing}")


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Gather(torch.autograd.Function):
    """``x`` of every rank, stacked; backward, the sum over ranks of the gradients of this rank's ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.stack(_from_all_ranks(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed: Tensor = _SumOfOwn.apply(gradients[0])
        return summed


class _SumOfOwn(torch.autograd.Function):
    """Of ``x [ranks, ...]``, the sum over ranks of this rank's part: the adjoint of `_Gather`, which is its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        summed = x.contiguous().clone()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        by_rank: Tensor = _Gather.apply(gradients[0])
        return by_rank


def _from_all_ranks(x: Tensor) -> list[Tensor]:
    by_rank = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(by_rank, x.contiguous())
    return by_rank
