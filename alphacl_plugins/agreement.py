"""What the ranks of a group tell each other before they exchange embeddings, so that an error of one ends all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.distributed import Maybe, from_all_ranks, global_ranks, numbers_of_ranks, world_size

WRONG = (-1, 0)
_GRADIENTS = ("none", "a gradient", "a gradient of extra_negatives alone", "a gradient, of extra_negatives too")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_that_ranks_agree(
    name: str,
    rows: Tensor,
    group: Any,
    labels: Maybe = None,
    queue: Maybe = None,
    kind: Callable[[], tuple[int, int]] = lambda: (0, 0),
    *,
    gradient: int = 0,
) -> bool:
    """Compare what the ranks bring before anything large is exchanged: a mismatch would hang or corrupt later.

    Args:
        name: what a message calls ``rows``, which are ``[n, D]`` or views ``[V, n, D]``.
        kind: returns numbers that differ where the kinds of further arguments, and the options of the loss, differ.
        gradient: whether this rank takes part in the backward pass, if that is a collective: 1 for the views, 2 for
            extra negatives, 3 for both.

    Returns:
        whether some rank has autograd on.

    Raises:
        ValueError: on every rank, if ranks differ in shape, dtype, options, or use of labels, queue or gradients, or if
            another one has no such facts to bring: `tell_ranks`.
    """
    if world_size(group) == 1:
        return torch.is_grad_enabled()
    n_views, (n, width) = len(rows) if rows.ndim == 3 else 1, rows.shape[-2:]
    used = labels is not None, queue is not None, gradient, torch.is_grad_enabled()
    facts = torch.tensor([n, width, n_views, _DTYPES.index(rows.dtype), *used, *kind()], device=rows.device)
    ranks = torch.stack(from_all_ranks(facts, group)).tolist()
    if wrong := [number for number, facts in zip(global_ranks(group), ranks, strict=True) if facts[8] == WRONG[0]]:
        raise ValueError(f"arguments: expected right ones on every rank, got an error on ranks {wrong}")
    for what, shown in (
        ("shape [N, D]", [facts[:2] for facts in ranks]),
        ("number of views", [facts[2] for facts in ranks]),
        ("dtype", [_DTYPES[facts[3]] for facts in ranks]),
        ("use of labels", ["labels" if facts[4] else "none" for facts in ranks]),
        ("use of a queue", ["a queue" if facts[5] else "none" for facts in ranks]),
        ("kinds of arguments", [f"kind {facts[8]}" for facts in ranks]),
        ("options of the loss and kind of strategy", [f"kind {facts[9]}" for facts in ranks]),
        ("use of gradients", [_GRADIENTS[facts[6]] for facts in ranks]),
    ):
        if any(fact != shown[0] for fact in shown):
            listing = ", ".join(
                f"rank {number}: {fact}" for number, fact in zip(global_ranks(group), shown, strict=True)
            )
            raise ValueError(f"{name}: expected the same {what} on every rank to gather, got {listing}")
    return any(facts[7] for facts in ranks)


def tell_ranks(given: Sequence[Any], group: Any) -> None:
    """Let the other ranks, which wait in `check_that_ranks_agree`, raise where this one has an error of its own.

    Args:
        given: what came in place of embeddings, for its device.
    """
    device = next((x.device for x in given if isinstance(x, Tensor)), torch.device("cpu"))
    with contextlib.suppress(ValueError):
        check_that_ranks_agree("arguments", torch.zeros(1, 1, device=device), group, kind=lambda: WRONG)


def raise_together(problem: Exception | None, device: torch.device, group: Any) -> None:
    """Raise on every rank if one has a problem, so that none waits for it.

    Raises:
        the problem of this rank
        ValueError: if only other ranks have one.
    """
    bad = numbers_of_ranks(problem is not None, device, group)
    if problem is not None:
        raise problem
    if any(bad):
        wrong = [number for number, one in zip(global_ranks(group), bad, strict=True) if one]
        raise ValueError(f"arguments: expected the same kinds and shapes on every rank, got others on ranks {wrong}")


def gather_rows(name: str, rows: Tensor, group: Any) -> Tensor:
    """Gather rows ``[N, D]`` of one shape and dtype from all ranks, in rank order, without gradient."""
    if world_size(group) == 1:
        return rows
    check_that_ranks_agree(name, rows, group)
    return torch.cat(from_all_ranks(rows, group))
