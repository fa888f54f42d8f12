"""The loss and its gradient, some anchors at a time: the engine of every call that does not ask for another.

With α held fixed the gradient of ``-E = Σ_i (Σ_p β_ip D_ip - Σ_j α_ij D_ij)`` is linear in the weights (Theorem 1): a
product with their Laplacian, formed while the distances of a block of anchors are at hand. What remains in memory has
the size of the embeddings, for every strategy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.engines.weights import Losses, weigh
from alphacl_plugins.functional import Laplacian, centre_of, put
from alphacl_plugins.pairs import Batch, Group
from alphacl_plugins.strategies import Strategy

_AT_ONCE = 2**20  # distances: larger blocks leave the caches of a CPU
_AT_ONCE_ON_GPU = 2**25  # smaller blocks do not fill a large GPU
_LEAST_ROWS = 128  # smaller blocks make slow products


def automatic_block(strategy: Strategy, batch: Batch) -> int:
    """Return how many anchors to compare at once: all, if the matrix of distances is small."""
    n_anchors, n_queue = batch.anchor_views * batch.own, 0 if batch.queue is None else batch.queue.shape[0]
    n_columns = batch.rows.shape[0] + n_queue - batch.said.n_own * (batch.own - batch.rows.shape[1])
    at_once, n_blocks = _AT_ONCE if batch.rows.device.type == "cpu" else _AT_ONCE_ON_GPU, 1
    if not strategy.separable:  # one that solves for its weights has more matrices of that size
        at_once //= 2
    while n_anchors * n_columns > at_once * n_blocks:  # by powers of two: torch.compile makes a graph for each number
        n_blocks *= 2
    return n_anchors if n_blocks == 1 else max(_LEAST_ROWS, -(-n_anchors // n_blocks))


class OwnPull:
    """The gradient of the pairs of anchors with negatives of their sample alone, some anchors at a time."""

    def __init__(self, group: Group) -> None:
        assert group.own is not None
        self._group, self.of_a, self.of_own = group, torch.zeros_like(group.a), torch.zeros_like(group.own)

    def add(self, start: int, stop: int, neg: Tensor) -> Tensor:
        """Take in the weights ``[m, K]`` of all columns, and return those of the other columns."""
        n_own, at = self.of_own.shape[1], self._group.moving
        own, others = neg[:, at : at + n_own], torch.cat([neg[:, :at], neg[:, at + n_own :]], dim=1)
        pull = own[:, :, None] * self._group.gaps(start, stop)
        self.of_a[start:stop] = pull.sum(dim=1)
        self.of_own.index_add_(0, self._group.samples(start, stop), pull, alpha=-1)
        return others


def in_blocks(
    strategy: Strategy,
    batch: Batch,
    weights: Tensor | None = None,
    *,
    block: Any = "auto",
    with_energy: bool = True,
    with_gradient: bool = True,
) -> tuple[Losses, Tensor | None]:
    """Compare the anchors of a batch without graph, ``block`` of them at a time.

    Returns:
        the losses, -E only if they need it or ``with_energy``, the excess only with it; the gradient of their sum, with
        ``weights [M]`` if given, for the rows of the batch, None if not ``with_gradient``.
    """
    n, pulls = batch.anchor_views * batch.own, []
    size = automatic_block(strategy, batch) if isinstance(block, str) else int(block)
    minus_energy = values = beta = excess = None  # type: Tensor | None
    (gaps, d2_of_views), found = batch.other_views(), None
    for group in batch.groups(centre_of(batch.rows)):
        laplacian: Laplacian | None = None
        of_samples = None if group.own is None else OwnPull(group)
        for start, stop in group.blocks(size):
            anchors = slice(group.first + start, group.first + stop)
            d2_pos, _, d2, _, positives, (neg, pos, value, transposed) = weigh(
                strategy, batch, group, d2_of_views, start, stop, transpose=with_gradient
            )
            if neg.requires_grad or pos.requires_grad:  # a strategy with parameters: they learn from its value alone
                neg, pos = neg.detach(), pos.detach()
            if batch.views.shape[0] == 1 and positives is not None:
                found = put(found, anchors, positives.found(), n)
            if value is not None:
                values = put(values, anchors, value, n)
            if value is None or with_energy:
                of_anchors = torch.linalg.vecdot(pos, d2_pos) - torch.linalg.vecdot(neg, d2)
                minus_energy = put(minus_energy, anchors, of_anchors, n)
            if with_energy:
                excess = put(excess, anchors, neg.sum(dim=1) - pos.sum(dim=1), n)
            del d2_pos, d2  # their memory serves once more
            if not with_gradient:
                continue
            if weights is not None:
                neg, pos = neg * weights[anchors, None], pos * weights[anchors, None]
                transposed = None if transposed is None else transposed * weights[anchors]
            if positives is None:
                beta = put(beta, anchors, pos, n)
            else:
                neg = positives.add_to(neg, -pos)
            if of_samples is not None:
                neg = of_samples.add(start, stop, neg)
            laplacian = laplacian or Laplacian(group.a, None if group.b is group.a else group.b, group.moving)
            laplacian.add(slice(start, stop), neg, transposed)
            del neg, transposed
        if laplacian is not None:
            of_a, of_b = laplacian.gradients()
            of_a, of_own = (of_a, None) if of_samples is None else (of_a + of_samples.of_a, of_samples.of_own)
            pulls.append((group, of_a, of_b, of_own))
    losses = Losses(minus_energy, values, excess, found)
    if not with_gradient:
        return losses, None
    gradient = batch.pull_of_views(gaps, beta)
    for pull in pulls:
        batch.subtract(gradient, *pull)
    return losses, gradient
