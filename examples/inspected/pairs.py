"""The pairs of samples that a strategy weighs most, of any number of samples, some anchors at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.functional import l2_normalize, paired_squared_distances, squared_distances
from alphacl_plugins.strategies.guarded import plain_on

AT_ONCE = 2**23
"""Distances."""


NEARER = 1e-8
"""How much more a nearer pair counts, for each unit of distance: of equal weights the nearest pairs come first, and
weights that float32 tells apart stay in their order."""


class Pair(NamedTuple):
    """Two samples by their numbers, a < b.

    Attributes:
        weight: the larger of α_ab and α_ba, in units of the average weight of all pairs.
        cosine: of their embeddings.
    """

    a: int
    b: int
    weight: float
    cosine: float


Progress = Callable[[Sequence[int]], Iterable[int]]


@torch.no_grad()
def heaviest_pairs(z: Tensor, z_aug: Tensor, strategy: Any, count: int, progress: Progress = iter) -> list[Pair]:
    """Return the pairs with the largest α, the largest first (of equal ones the nearest), as if all were one batch.

    Args:
        z: embeddings of the samples, ``[N, D]``; each is an anchor, and all others are its negatives.
        z_aug: embeddings of another view of each: its positive, ``[N, D]``.
        strategy: a strategy object.
        count: how many pairs, at most.
        progress: shows how far it is, through the starts of the blocks.

    Raises: ValueError if the strategy weighs all pairs alike.
    """
    unit, n = l2_normalize(z), len(z)
    d2_pos = paired_squared_distances(unit, l2_normalize(z_aug))
    rule = plain_on(strategy, d2_pos)
    if rule.uses_batch:
        rule = rule.on_batch(d2_pos, torch.ones_like(d2_pos))
    size = max(1, AT_ONCE // n)
    weights, keys, ids = (
        unit.new_empty(0),
        unit.new_empty(0).double(),
        torch.empty(0, dtype=torch.int64, device=unit.device),
    )
    total, least = 0.0, torch.inf
    for start in progress(range(0, n, size)):
        rows = torch.arange(start, min(start + size, n), device=unit.device)
        others = torch.arange(n, device=unit.device) != rows[:, None]
        d2_neg = squared_distances(unit[rows], unit)[others].view(len(rows), n - 1)
        alpha = rule(d2_pos[rows], d2_neg).neg
        total, least = total + float(alpha.double().sum()), min(least, float(alpha.min()))
        key = alpha.double() * (1 - NEARER * d2_neg.double())
        top = key.flatten().topk(min(2 * count, alpha.numel()))  # each pair may come from both its samples
        row, column = rows[top.indices // (n - 1)], top.indices % (n - 1)
        column = column + (column >= row)
        keys, weights = torch.cat([keys, top.values]), torch.cat([weights, alpha.flatten()[top.indices]])
        ids = torch.cat([ids, torch.minimum(row, column) * n + torch.maximum(row, column)])
        kept = keys.topk(min(2 * count, len(keys))).indices
        keys, weights, ids = keys[kept], weights[kept], ids[kept]
    average = total / (n * (n - 1))
    if not float(weights[0]) > least or average <= 0:
        raise ValueError(f"strategies: expected one that weighs pairs by their distance, got {strategy!r}")
    first: dict[int, float] = {}
    for weight, pair in zip(weights.tolist(), ids.tolist(), strict=True):
        first.setdefault(pair, weight)
    return [
        Pair(pair // n, pair % n, weight / average, float(unit[pair // n] @ unit[pair % n]))
        for pair, weight in list(first.items())[:count]
    ]
