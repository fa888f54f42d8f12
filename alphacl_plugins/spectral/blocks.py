"""α of all pairs, some anchors at a time: how a strategy weighs N x N pairs without a matrix of that size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.checks import check_count, check_labels
from alphacl_plugins.classes import ClassMembers
from alphacl_plugins.columns import Positives
from alphacl_plugins.engines.weights import fill, weights_of
from alphacl_plugins.functional import (
    centre_of,
    distances,
    paired_squared_distances,
    promote,
)
from alphacl_plugins.pairs import Batch, Group
from alphacl_plugins.strategies import AnyStrategy, PairWeights, Strategy
from alphacl_plugins.strategies.guarded import strategy_for_alpha
from alphacl_plugins.strategies.separable import RowFactors, Separable, Totals


class Block(NamedTuple):
    """The weights of some anchors of N samples, m of them."""

    rows: slice  # the anchors
    samples: Tensor  # [m, N]: α of the negatives, minus the weights of the positives among the samples
    view: Tensor  # [m, 1]: weight of the anchor's other view


class BlockedAlpha:
    """The weights of each anchor's pairs, ``[m, N]`` at a time.

    A sample's negatives are the other samples, with ``labels`` those of other classes; its positives are its other view
    and, with ``labels``, the other samples of its class. As in the loss, an anchor with several positives has the mean
    of the weights that each positive would give by itself; an anchor without any is its own positive, at D_+ = 0.
    A positive has the sum of the row that it gives as its weight, as in Eq. 5.

    Args:
        alpha: a tensor of importances ``[N, N]``, a strategy, or the name of one.
        z: embedding on which a strategy measures distances, ``[N, E]``.
        z_aug: its other view, ``[N, E]``, if there is one.
        labels: class of each sample, ``[N]``.
        block_size: anchors in a block.
        dtype: of the weights.

    Raises:
        TypeError, ValueError: labels or block size are not these, or a name is unknown.
    """

    def __init__(
        self,
        alpha: Tensor | AnyStrategy | str,
        z: Tensor,
        z_aug: Tensor | None,
        *,
        labels: Tensor | None,
        block_size: int,
        dtype: torch.dtype,
    ) -> None:
        if labels is not None:
            check_labels("labels", labels, len(z))
        check_count("block_size", block_size)
        self._fixed = alpha.detach() if isinstance(alpha, Tensor) else None
        self.block_size, self.dtype = block_size, dtype
        members = None if labels is None else ClassMembers.of(labels)
        rows = promote(z)[0]
        self._batch = Batch(rows, rows[None], None, labels, members, 0, len(z), 1)
        self._d2_of_view = None if z_aug is None else paired_squared_distances(z, z_aug)[:, None]
        d2_pos = rows.new_zeros(len(z), 1) if self._d2_of_view is None else self._d2_of_view
        self._strategy = None if isinstance(alpha, Tensor) else _with_row_sums(alpha, d2_pos)

    def blocks(self) -> Iterator[Block]:
        """Yield the weights of all anchors, block by block."""
        (group,) = self._batch.groups(centre_of(self._batch.rows))
        for start, stop in group.blocks(self.block_size):
            yield self._block(group, start, stop)

    def _block(self, group: Group, start: int, stop: int) -> Block:
        rows = slice(start, stop)
        if self._fixed is not None and self._batch.classes is not None:
            return self._tensor_with_classes(rows, self._fixed, self._batch.classes)
        excluded, positives = self._batch.compare(group, start, stop)
        if self._strategy is None:
            assert self._fixed is not None
            neg = fill(self._fixed[rows].to(self.dtype, copy=True), excluded, 0.0)
            return Block(rows, neg, neg.sum(dim=1, keepdim=True))
        d2 = distances(group.a[rows], group.b)
        d2_pos = d2.new_zeros(len(d2), 1) if self._d2_of_view is None else self._d2_of_view[rows].to(d2.dtype)
        d2_pos = d2_pos if positives is None else torch.cat([d2_pos, positives.of(d2)], dim=1)
        neg, pos, *_ = weights_of(self._strategy, d2_pos, self._share(positives), d2, excluded)
        neg, pos = neg.to(self.dtype), pos.to(self.dtype)
        return Block(rows, neg if positives is None else positives.add_to(neg, -pos[:, 1:]), pos[:, :1])

    def _tensor_with_classes(self, rows: slice, alpha: Tensor, classes: ClassMembers) -> Block:
        """A mask is faster here than the indices of the positives, which share the sum of the row evenly."""
        labels = self._batch.labels
        assert labels is not None
        same = labels[rows, None] == labels
        neg = torch.where(same, 0.0, alpha[rows]).to(self.dtype)
        positives = classes.size[rows] - (1 if self._d2_of_view is None else 0)
        pos = neg.sum(dim=1, keepdim=True) / positives.clamp_min(1)
        torch.where(same, -pos, neg, out=neg)  # also for an anchor with itself: that pair has no difference
        return Block(rows, neg, pos)

    def _share(self, positives: Positives | None) -> Tensor | float:
        """Return the share of each positive in the anchor's mean, ``[m, 1 + P]``: the other view, then the class."""
        if positives is None:
            return 1.0
        assert isinstance(positives.share, Tensor)  # as there are labels
        others = (positives.share > 0).sum(dim=1, keepdim=True)
        of_view = (others == 0).to(self.dtype) if self._d2_of_view is None else 1 / (others.to(self.dtype) + 1)
        return torch.cat([of_view, (1 - of_view) * positives.share.to(self.dtype)], dim=1)


def _with_row_sums(alpha: AnyStrategy | str, d2_pos: Tensor) -> Strategy:
    strategy = strategy_for_alpha(alpha, d2_pos)
    if strategy.separable and isinstance(strategy, Separable):
        return _SeparableWithRowSums(strategy)
    return _WithRowSums(strategy)


class _WithRowSums(Strategy):
    """The weights of a strategy, whose positive weighs as much as its negatives together, without a loss."""

    pure = True

    def __init__(self, strategy: Strategy) -> None:
        self._strategy, self.uses_positive = strategy, strategy.uses_positive

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        return PairWeights(self._strategy(d2_pos, d2_neg).neg)


class _SeparableWithRowSums(Separable):
    """The same of a strategy whose weights factor."""

    def __init__(self, strategy: Separable) -> None:
        self._strategy, self.uses_totals = strategy, strategy.uses_totals

    def log_weight(self, d2: Tensor) -> Tensor:
        """Return that of the strategy."""
        return self._strategy.log_weight(d2)

    def potential(self, d2: Tensor) -> Tensor | None:
        """Return that of the strategy."""
        return self._strategy.potential(d2)

    def log_mass(self, d2: Tensor) -> Tensor | None:
        """Return that of the strategy."""
        return self._strategy.log_mass(d2)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        """Return its row sum for both."""
        row_sum = self._strategy.factors(d2_pos, totals).row_sum
        return RowFactors(row_sum, pos=row_sum)
