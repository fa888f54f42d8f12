"""Tiles of pairs in plain torch, for every strategy whose weights factor and for labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.engines.two_pass import Constants, OfPositives, Sums
from alphacl_plugins.functional import Laplacian, distances
from alphacl_plugins.pairs import Rows, is_negative, is_positive
from alphacl_plugins.strategies.separable import Separable, Totals


class TorchTiles(NamedTuple):
    """What computes a tile of pairs, anchors a against rows b, of at most ``side`` anchors and rows."""

    strategy: Separable
    negatives: str
    labelled: bool
    side: int

    def sums(self, a: Rows, b: Rows) -> Sums:
        """Return the sums over the negatives among b."""
        negative, d2 = is_negative(a, b, self.negatives), distances(a.z, b.z)
        log_w, potential = self.strategy.log_weight(d2), self.strategy.potential(d2)
        row_max = log_w.masked_fill(~negative, torch.finfo(d2.dtype).min).amax(dim=1, keepdim=True)
        log_w = log_w - row_max
        w = torch.where(negative, log_w.exp(), 0.0)
        potential = torch.zeros_like(d2) if potential is None else potential
        terms = (w, w * log_w, w * d2, d2, torch.ones_like(d2), potential)
        return Sums(row_max, *(_sum_where(negative, term) for term in terms))

    def positives(self, a: Rows, b: Rows, totals: Totals) -> OfPositives:
        """Return the sums over the positives among b, for labels."""
        positive, d2 = is_positive(a, b), distances(a.z, b.z)
        row_sum, pos, value = self.strategy.factors(d2, totals)
        terms = (torch.ones_like(d2), row_sum, pos * d2, d2, value)
        return OfPositives(*(None if term is None else _sum_where(positive, term) for term in terms))  # type: ignore[arg-type]

    def pulls(self, a: Rows, b: Rows, constants: Constants, *, b_moves: bool) -> tuple[Tensor, Tensor | None]:
        """Return the gradient of ``Σ_ij W_ij D_ij``, W the weights of negatives minus positives, for a and for b.

        The second is None if b does not move, or if b is a: then the first is the sum of both.
        """
        d2 = distances(a.z, b.z)
        alpha = constants.scale * torch.exp(self.strategy.log_weight(d2) - constants.row_max)
        weights = torch.where(is_negative(a, b, self.negatives), alpha, 0.0)
        if self.labelled:  # else the positives are not among the tiles
            pos = constants.share * self.strategy.factors(d2, constants.totals).pos
            weights = torch.where(is_positive(a, b), -pos, weights)
        laplacian = Laplacian(a.z, None if b is a else b.z, len(b.z) if b_moves else 0)
        laplacian.add(slice(0, len(a.z)), weights)
        return laplacian.gradients()


def _sum_where(chosen: Tensor, x: Tensor) -> Tensor:
    """Sum the chosen entries of each row, ``[m, 1]``."""
    return torch.where(chosen, x, 0.0).sum(dim=1, keepdim=True)
