"""Tiles of pairs in plain torch, for every strategy whose weights factor and every rule of pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.engines.sums import NO_PLACE, Constants, Listed, OfPositives, Sums
from alphacl_plugins.functional import Laplacian, distances
from alphacl_plugins.pairs import Batch
from alphacl_plugins.rules import Pairs, Rows, compare
from alphacl_plugins.strategies.beside_others import log_sum_exp
from alphacl_plugins.strategies.separable import Separable, Totals


class TorchTiles(NamedTuple):
    """What computes a tile of pairs, anchors a against rows b, of at most ``side`` anchors and rows."""

    strategy: Separable
    batch: Batch
    side: int

    def sums(self, a: Rows, b: Rows) -> Sums:
        """Return the sums over the negatives among b."""
        d2, pairs = _distances(a, b), self._compare(a, b)
        negative = pairs.negative & ~pairs.positive if self.batch.rules.others_too else pairs.negative
        count = torch.ones_like(d2) if pairs.times is None else pairs.times
        log_w, potential = self.strategy.log_weight(d2), self.strategy.potential(d2)
        lowest, log_mass = torch.finfo(d2.dtype).min, self.strategy.log_mass(d2)
        if log_mass is not None:
            log_mass = log_sum_exp(torch.where(negative, log_mass + count.log(), -torch.inf))
        row_max = log_w.masked_fill(~negative, lowest).amax(dim=1, keepdim=True)
        log_w = log_w - row_max
        w = torch.where(negative, log_w.exp(), 0.0) * count
        potential = torch.zeros_like(d2) if potential is None else potential
        terms = (w, w * log_w, w * d2, count * d2, count, count * potential)
        return Sums(row_max, *(_sum_where(negative, term) for term in terms))._replace(log_mass=log_mass)

    def positives(self, a: Rows, b: Rows, totals: Totals) -> OfPositives:
        """Return the sums over the positives among b, for labels."""
        positive, d2 = self._compare(a, b).positive, _distances(a, b)
        row_sum, pos, value = self.strategy.factors(d2, totals)
        terms = (torch.ones_like(d2), row_sum, pos, pos * d2, d2, value)
        return OfPositives(*(None if term is None else _sum_where(positive, term) for term in terms))  # type: ignore[arg-type]

    def list_positives(self, a: Rows, b: Rows) -> Listed:
        """Return the positives among b, and how often each counts as a negative."""
        pairs, d2 = self._compare(a, b), _distances(a, b)
        real, where = pairs.positive.to(torch.int8).topk(int(pairs.positive.sum(dim=1).max()), dim=1)
        times = (pairs.negative if pairs.times is None else pairs.times).to(d2.dtype).gather(1, where)
        place = b.place[where].masked_fill(real == 0, NO_PLACE)
        return Listed(place, d2.gather(1, where) * real, times * real)

    def pulls(self, a: Rows, b: Rows, constants: Constants, *, b_moves: bool) -> tuple[Tensor, Tensor | None]:
        """Return the gradient of ``Σ_ij W_ij D_ij``, W the weights of negatives minus positives, for a and for b.

        The second is None if b does not move, or if b has the rows of a: then the first is the sum of both.
        """
        d2, pairs = _distances(a, b), self._compare(a, b)
        alpha = constants.scale * torch.exp(self.strategy.log_weight(d2) - constants.row_max)
        weights = torch.where(pairs.negative, alpha if pairs.times is None else alpha * pairs.times, 0.0)
        if constants.place is not None:
            assert constants.of_place is not None
            at = torch.searchsorted(constants.place, b.place.repeat(len(a.z), 1))
            at.clamp_max_(constants.place.shape[1] - 1)
            weights = torch.where(pairs.positive, constants.of_place.gather(1, at), weights)
        elif self.batch.labels is not None:  # else the positives are not among the tiles
            pos = constants.share * self.strategy.factors(d2, constants.totals).pos
            weights = torch.where(pairs.positive, -pos, weights)
        if b.of_samples:
            pull = weights[:, :, None] * (a.z[:, None] - b.z)
            return pull.sum(dim=1), -pull
        laplacian = Laplacian(a.z, None if b.z is a.z else b.z, len(b.z) if b_moves else 0)
        laplacian.add(slice(0, len(a.z)), weights)
        return laplacian.gradients()

    def _compare(self, a: Rows, b: Rows) -> Pairs:
        return compare(self.batch.rules, a, b, self.batch.said.exclude, self.batch.said.times)


def _sum_where(chosen: Tensor, x: Tensor) -> Tensor:
    """Sum the chosen entries of each row, ``[m, 1]``."""
    return torch.where(chosen, x, 0.0).sum(dim=1, keepdim=True)


def _distances(a: Rows, b: Rows) -> Tensor:
    return (a.z[:, None] - b.z).square().sum(dim=2) / 2 if b.of_samples else distances(a.z, b.z)
