"""Embeddings of all ranks of a group: gathered, with the gradient flowing back to their rank, or passed round a ring.

A ``group`` is a ProcessGroup, None for the default group, or `ALONE`; ranks are counted within the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

Maybe = Tensor | None
ALONE = "alone"  # in place of a group: this process, whatever others there are


def world_size(group: Any) -> int:
    """How many processes train together; 1 where torch.distributed is not in use.

    Raises:
        ValueError: this process does not belong to the group.
    """
    if group is ALONE or not (dist.is_available() and dist.is_initialized()):
        return 1
    size = dist.get_world_size(group)
    if size < 1:
        raise ValueError(
            "process_group: expected a group that this process belongs to, got one without it (a pickle leaves the "
            "group out: set process_group again)"
        )
    return size


def rank(group: Any) -> int:
    """Return the number of this process; 0 where torch.distributed is not in use."""
    return dist.get_rank(group) if world_size(group) > 1 else 0


def gather(stacked: Tensor, group: Any) -> Tensor:
    """Gather views ``[V, n, D]`` from all ranks, in rank order: ``[V, ranks * n, D]``.

    The gradient of a gathered row is the sum over ranks, so that after DDP has averaged the parameter gradients they
    equal the gradients of one process with the whole batch. The ranks agree, by `check_that_ranks_agree`.
    """
    if world_size(group) == 1:
        return stacked
    return _Gather.apply(stacked, group).transpose(0, 1).flatten(1, 2)  # type: ignore[no-any-return]


def gather_uneven(rows: Tensor, group: Any) -> Tensor:
    """Gather rows ``[C, D]``, of which each rank may have another number, in rank order, with their gradient."""
    numbers = numbers_of_ranks(rows.shape[0], rows.device, group)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, max(1, *numbers) - rows.shape[0]))
    by_rank = gather(padded[None], group)[0].view(len(numbers), -1, rows.shape[1])
    return torch.cat([part[:number] for part, number in zip(by_rank, numbers, strict=True)])


def numbers_of_ranks(number: int, device: torch.device, group: Any) -> tuple[int, ...]:
    """Return the number of every rank."""
    if world_size(group) == 1:
        return (number,)
    return tuple(torch.cat(from_all_ranks(torch.tensor([number], device=device), group)).tolist())


def mean_of_ranks(x: Tensor, group: Any) -> Tensor:
    """Return the mean over ranks, without gradient."""
    if world_size(group) == 1:
        return x
    x = x.clone()
    dist.all_reduce(x, group=group)
    return x / world_size(group)


def ring(group: Any, *block: Tensor) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """Yield the block of every rank in turn, this rank's own first, with the rank that it belongs to.

    The next block is on its way while the caller works on this one. Every rank has to go all the way round.
    """
    size, own = world_size(group), rank(group)
    for step in range(size):
        arrived = pass_on(group, *block) if step + 1 < size else None
        yield (own - step) % size, block
        block = arrived() if arrived is not None else block


def pass_on(group: Any, *tensors: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """Begin to send tensors to the next rank; the result waits for those of the rank before, and returns them."""
    received = tuple(torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors)
    sent = [tensor.contiguous() for tensor in tensors]
    peers, own = global_ranks(group), rank(group)  # torch counts peers over all processes
    swaps = [dist.P2POp(dist.isend, tensor, peers[(own + 1) % len(peers)], group) for tensor in sent]
    swaps += [dist.P2POp(dist.irecv, tensor, peers[own - 1], group) for tensor in received]
    requests = dist.batch_isend_irecv(swaps)

    def wait() -> tuple[Tensor, ...]:
        for request in requests:
            request.wait()
        sent.clear()  # kept until it has left
        return received

    return wait


class _Gather(torch.autograd.Function):
    """``x`` of every rank, stacked; backward, the sum over ranks of the gradients of this rank's ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return torch.stack(from_all_ranks(x, group))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _SumOfOwn.apply(gradients[0], ctx.group), None


class _SumOfOwn(torch.autograd.Function):
    """Of ``x [ranks, ...]``, the sum over ranks of this rank's part: the adjoint of `_Gather`, which is its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, summed = group, x.contiguous().clone()
        dist.all_reduce(summed, group=group)
        return summed[dist.get_rank(group)]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradients[0], ctx.group), None


def from_all_ranks(x: Tensor, group: Any) -> list[Tensor]:
    """Return a tensor of every rank, all of one shape and dtype, without gradient."""
    by_rank = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(by_rank, x.contiguous(), group=group)
    return by_rank


def global_ranks(group: Any) -> list[int]:
    """Return the number of each rank of the group among all processes."""
    return dist.get_process_group_ranks(dist.group.WORLD if group is None else group)
