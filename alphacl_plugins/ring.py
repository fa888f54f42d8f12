"""The loss against the candidates of all ranks, without ever holding all ranks' embeddings in one place.

Each rank's embeddings, a block, travel from rank to rank until all have seen them; a rank measures its anchors against
the block at hand, tile by tile. That suffices for weights that factor (see `alphacl_plugins.strategies.factored`):

    forward    one trip for the sums over each anchor's candidates; with labels, a second for its positives
    backward   one trip that forms α from the sums; the gradient of a block travels with it, and home at the end
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from alphacl_plugins.functional import squared_distances
from alphacl_plugins.pairs import check_candidates
from alphacl_plugins.ranks import check_that_ranks_agree, world_size
from alphacl_plugins.strategies.factored import Factored, Totals
from alphacl_plugins.tiles import Block, Comparison, Tile


class RingLoss(NamedTuple):
    """The parts of each anchor's loss, ``[M]``, and the statistics of the batch."""

    minus_energy: Tensor  # with gradient
    value: Tensor | None  # without, to the embeddings; None stands for -E
    stats: dict[str, Tensor]


class Sums:
    """Sums over the candidates of each anchor, ``[M, 1]``, that grow tile by tile.

    Weights are taken relative to the largest so far, ``v_j = w(D_j) / top``: no temperature overflows or cancels.
    """

    def __init__(self, comparison: Comparison) -> None:
        zeros = comparison.own.views.new_zeros(comparison.n_anchors, 1)
        self.log_top = torch.full_like(zeros, torch.finfo(zeros.dtype).min)
        self.weight = zeros.clone()  # Σ_j v_j
        self.weighted_d2 = zeros.clone()  # Σ_j v_j D_j
        self.weighted_log = zeros.clone()  # Σ_j v_j log v_j
        self.potential = zeros.clone()
        self.number = zeros.clone()
        self.d2 = zeros.clone()
        self.positives = zeros.clone()  # how many

    def add(self, tile: Tile, strategy: Factored) -> None:
        """Take in one tile."""
        i = tile.anchors
        if tile.positive is not None:
            self.positives[i] += tile.positive.sum(dim=1, keepdim=True)
        if tile.candidate is None:
            return
        d2 = squared_distances(tile.a, tile.b)
        self._add_weights(i, d2, strategy.log_weight(d2), tile.candidate)
        self.number[i] += tile.candidate.sum(dim=1, keepdim=True)
        self.d2[i] += _sum_where(tile.candidate, d2)
        potential = strategy.potential(d2)
        if potential is not None:
            self.potential[i] += _sum_where(tile.candidate, potential)

    def _add_weights(self, i: slice, d2: Tensor, log_weight: Tensor, candidate: Tensor) -> None:
        log_top = torch.maximum(
            self.log_top[i], log_weight.masked_fill(~candidate, -torch.inf).amax(dim=1, keepdim=True)
        )
        fall = torch.where(self.weight[i] > 0, self.log_top[i] - log_top, 0.0)  # of all that was there before
        log_v = log_weight - log_top
        v = torch.where(candidate, log_v.exp(), 0.0)
        rescale = fall.exp()
        self.weighted_log[i] = rescale * (self.weighted_log[i] + fall * self.weight[i]) + _sum_where(
            candidate, v * log_v
        )
        self.weighted_d2[i] = rescale * self.weighted_d2[i] + (v * d2).sum(dim=1, keepdim=True)
        self.weight[i] = rescale * self.weight[i] + v.sum(dim=1, keepdim=True)
        self.log_top[i] = log_top

    def lonely(self) -> Tensor:
        """Which anchors have no candidate; they contribute 0."""
        return self.number == 0

    def softmax(self) -> Softmax:
        """What forms the rows; harmless numbers for an anchor that has no candidate."""
        lonely = self.lonely()
        return Softmax(self.log_top.masked_fill(lonely, 0.0), self.weight.masked_fill(lonely, 1.0))

    def totals(self) -> Totals:
        """What a strategy may know of the candidates."""
        log_top, weight = self.softmax()
        return Totals(log_top + weight.log(), self.potential, self.number.masked_fill(self.lonely(), 1.0))

    def mean_d2(self) -> Tensor:
        """Distance of the candidates, weighted by α."""
        return self.weighted_d2 / self.softmax().weight

    def entropy(self) -> Tensor:
        """``-Σ_j p_j log p_j`` with ``p = w / Σ w``."""
        weight = self.softmax().weight
        return weight.log() - self.weighted_log / weight


class Softmax(NamedTuple):
    """``p_j = exp(log w_j - log_top) / weight``, ``[M, 1]``."""

    log_top: Tensor
    weight: Tensor


class Rows(NamedTuple):
    """All that α needs beside the distances, ``[M, 1]``."""

    totals: Totals
    softmax: Softmax
    share: Tensor  # of each positive in the mean
    mass: Tensor  # sum of the candidates' weights
    counted: Tensor  # 1, or 0 for an anchor without candidates


def ring_loss(
    strategy: Factored,
    views: Sequence[Tensor],
    *,
    negatives: str,
    symmetric: bool,
    labels: Tensor | None,
    queue: Tensor | None,
) -> RingLoss:
    """Compute each anchor's loss against the candidates of all ranks.

    The numbers and gradients are those of gathered views. Every rank has to run forward and backward, as with any
    collective.

    Args:
        strategy: one whose weights factor.
        views: embeddings of this rank, each ``[N, D]``.
        negatives, symmetric, labels, queue: as in `alphacl_plugins.AlphaCLLoss`.

    Raises: ValueError if no anchor can have a candidate, or (on every rank) if the ranks' batches differ in kind.
    """
    stacked, comparison = _compare(views, negatives, symmetric, labels, queue)
    with torch.no_grad(), torch.autocast(stacked.device.type, enabled=False):
        sums = Sums(comparison)
        for block in _trip(comparison.own, comparison.steps):
            for tile in comparison.tiles(block):
                sums.add(tile, strategy)
        rows, positives = _meet_positives(strategy, comparison, sums)
        minus_energy = (positives.pull - rows.mass * sums.mean_d2())[:, 0]
    through: Tensor = _MinusEnergy.apply(stacked, minus_energy, strategy, comparison, rows)
    entropy = torch.where(rows.mass > 0, sums.entropy(), 0.0).mean()
    stats = {
        "d2_pos": positives.d2.mean(),
        "d2_neg": sums.d2.sum() / sums.number.sum().clamp_min(1),
        "alpha_entropy": entropy,
        "effective_negatives": entropy.exp(),
    }
    return RingLoss(through, positives.value, stats)


def _compare(
    views: Sequence[Tensor], negatives: str, symmetric: bool, labels: Tensor | None, queue: Tensor | None
) -> tuple[Tensor, Comparison]:
    check_that_ranks_agree("z", views, labels=labels, queue=queue)
    stacked = torch.stack(list(views))
    n, rank = stacked.shape[1], dist.get_rank() if world_size() > 1 else 0
    check_candidates(world_size() * n, negatives, queue)
    classes = torch.arange(n, device=stacked.device) + rank * n if labels is None else labels
    own = Block(stacked.detach(), classes, rank)
    return stacked, Comparison(own, queue, negatives, symmetric, labels is not None)


class _Positives(NamedTuple):
    """Means over the positives of each anchor."""

    pull: Tensor  # [M, 1], weight times distance
    d2: Tensor  # [M, 1]
    value: Tensor | None  # [M]


def _meet_positives(strategy: Factored, comparison: Comparison, sums: Sums) -> tuple[Rows, _Positives]:
    totals, share = sums.totals(), 1 / sums.positives
    mass, pull, mean_d2, value = (torch.zeros_like(share) for _ in range(4))
    has_value = False
    for block in _trip(comparison.own, comparison.steps if comparison.labelled else 1):
        for tile in comparison.tiles(block):
            if tile.positive is None:
                continue
            i = tile.anchors
            d2 = squared_distances(tile.a, tile.b)
            factors = strategy.factors(d2, totals.of(i))
            mass[i] += share[i] * _sum_where(tile.positive, factors.mass)
            pull[i] += share[i] * _sum_where(tile.positive, factors.pos * d2)
            mean_d2[i] += share[i] * _sum_where(tile.positive, d2)
            if factors.value is not None:
                has_value = True
                value[i] += share[i] * _sum_where(tile.positive, factors.value)
    counted = (~sums.lonely()).to(share.dtype)
    return (
        Rows(totals, sums.softmax(), share, mass * counted, counted),
        _Positives(pull * counted, mean_d2, (value * counted)[:, 0] if has_value else None),
    )


class _MinusEnergy(torch.autograd.Function):
    """``-E`` of each anchor, which is known already; backward, its gradient with α held fixed."""

    @staticmethod
    def forward(
        ctx: Any, views: Tensor, minus_energy: Tensor, strategy: Factored, comparison: Comparison, rows: Rows
    ) -> Tensor:
        ctx.strategy, ctx.comparison, ctx.rows = strategy, comparison, rows
        return minus_energy.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # create_graph=True: what follows would pass for a constant
            raise RuntimeError(
                'gather_distributed: expected True for a gradient that is differentiated again, got "ring"'
            )
        comparison: Comparison = ctx.comparison
        own = comparison.own
        n_views, n, width = own.views.shape
        of_anchors = torch.zeros_like(own.views)
        flat = of_anchors.view(n_views * n, width)
        centre = own.views.mean(dim=(0, 1))  # distances do not depend on the origin, their rounding does
        block, of_block = own, torch.zeros_like(own.views)
        with torch.autocast(own.views.device.type, enabled=False):
            for step in range(comparison.steps):
                if step > 0:
                    block, of_block = _pass_on(block), _send_to_next(of_block)
                for tile in comparison.tiles(block):
                    c = gradients[0][tile.anchors, None] * _coefficients(ctx.strategy, ctx.rows, tile)
                    a, b = tile.a - centre, tile.b - centre
                    flat[tile.anchors] += c.sum(dim=1, keepdim=True) * a - c @ b
                    if tile.place is not None:
                        of_block[tile.place] += c.sum(dim=0)[:, None] * b - c.T @ a
        if comparison.steps > 1:  # the block that is here belongs to the next rank
            of_block = _send_to_next(of_block)
        return of_anchors + of_block, None, None, None, None


def _coefficients(strategy: Factored, rows: Rows, tile: Tile) -> Tensor:
    """What ``-E`` multiplies the distances of a tile with: weights of positives, minus α."""
    i = tile.anchors
    totals = rows.totals.of(i)
    d2 = squared_distances(tile.a, tile.b)
    coefficients = torch.zeros_like(d2)
    if tile.positive is not None:
        pos = rows.counted[i] * rows.share[i] * strategy.factors(d2, totals).pos
        coefficients = torch.where(tile.positive, pos, coefficients)
    if tile.candidate is not None:
        log_top, weight = (part[i] for part in rows.softmax)
        alpha = rows.mass[i] * torch.exp(strategy.log_weight(d2) - log_top) / weight
        coefficients = torch.where(tile.candidate, -alpha, coefficients)
    return coefficients


def _trip(own: Block, steps: int) -> Iterator[Block]:
    """The block of every rank in turn, this rank's own first."""
    block = own
    for step in range(steps):
        if step > 0:
            block = _pass_on(block)
        yield block


def _pass_on(block: Block) -> Block:
    """Send a block to the next rank and receive that of the rank before."""
    return Block(_send_to_next(block.views), _send_to_next(block.classes), (block.home - 1) % world_size())


def _send_to_next(sent: Tensor) -> Tensor:
    received = torch.empty_like(sent)
    rank, world = dist.get_rank(), world_size()
    swap = [
        dist.P2POp(dist.isend, sent.contiguous(), (rank + 1) % world),
        dist.P2POp(dist.irecv, received, (rank - 1) % world),
    ]
    for request in dist.batch_isend_irecv(swap):
        request.wait()
    return received


def _sum_where(chosen: Tensor, x: Tensor) -> Tensor:
    """Sum of the chosen entries of each row, ``[m, 1]``."""
    return torch.where(chosen, x, 0.0).sum(dim=1, keepdim=True)
