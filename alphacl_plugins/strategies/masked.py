"""A mask around a strategy: negatives so close that they are taken as false, or outside two quantiles of their row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.checks import check_finite
from alphacl_plugins.strategies.base import Around, PairWeights, Strategy
from alphacl_plugins.strategies.learnable import Learnable


class Masked(Around):
    """Any strategy, without negatives that are probably false: nearer than the positive by more than a margin.

    ``α_j`` is the strategy's among the negatives with ``D_j >= D_+ - margin`` that lie between two quantiles of the
    row; the others have weight 0. The mask has no gradient. A row that is masked whole has weights and value 0.

    A mask looks at one positive and one negative at once, so weights do not factor: rings and kernels refuse it. A
    learnable temperature goes inside, ``Masked(LearnableTemperature(InfoNCE()))``.

    Args:
        strategy: any strategy: ours, a function, a `LearnableTemperature`.
        margin: in the unit of D; 0: every negative nearer than the positive is masked; below 0: also
            negatives that are further by less than ``-margin``. None: no such mask.
        lowest: quantile of the row's distances, in [0, 1): the negatives below it, the closest ones, are masked.
        highest: quantile in (lowest, 1]: the negatives beyond are masked. Ties stay together.

    Raises:
        TypeError: if the strategy cannot be called, or an option is of the wrong type.
        ValueError: if a number is outside its range.

    Source:
        Zhang et al. (2025), arXiv:2506.05176 (Qwen3 Embedding), for the margin; Wu et al. (2021), arXiv:2010.02037, for
        the ring between two quantiles.

    Examples:
        >>> from alphacl_plugins.strategies import Uniform
        >>> Masked(Uniform(), margin=0.1)(torch.tensor([0.5]), torch.tensor([[0.1, 0.45, 2.0]])).neg
        tensor([[0.0000, 0.5000, 0.5000]])
    """

    def __init__(self, strategy: Any, margin: float | None = 0.1, *, lowest: float = 0.0, highest: float = 1.0) -> None:
        if isinstance(strategy, type) or not callable(strategy):
            raise TypeError(f"strategy: expected a strategy object, got {strategy!r}")
        if margin is not None:
            check_finite("margin", margin)
        check_finite("lowest", lowest)
        check_finite("highest", highest)
        if not 0 <= lowest < highest <= 1:
            raise ValueError(f"lowest, highest: expected 0 <= lowest < highest <= 1, got {lowest!r}, {highest!r}")
        super().__init__(strategy)
        self.margin, self.lowest, self.highest = margin, lowest, highest

    def around(self, strategy: Any) -> MaskedRows:
        """Return this mask around another form of the strategy, as the engines call it."""
        return MaskedRows(strategy, self.margin, self.lowest, self.highest)

    def forward(self, d2_pos: Tensor, d2_neg: Tensor, *count: Tensor) -> PairWeights:
        """Weigh each anchor's negatives against its positive.

        Args:
            d2_pos: distance of each anchor to its positive, ``[M]``.
            d2_neg: distances to its negatives, ``[M, K]``; +inf where a column is excluded.
            *count: how often each counts, ``[M, K]``, if the strategy counts.
        """
        return self.around(self.strategy)(d2_pos, d2_neg, *count)

    def __repr__(self) -> str:
        return repr(self.around(self.strategy))


class MaskedRows(Strategy):
    """`Masked` without parameters of its own, around a strategy that the engines call as it is."""

    pure = True

    def __init__(self, strategy: Any, margin: float | None, lowest: float, highest: float) -> None:
        self.strategy, self.margin, self.lowest, self.highest = strategy, margin, lowest, highest
        self.negatives = getattr(strategy, "negatives", None)
        self.symmetric = getattr(strategy, "symmetric", None)
        self.uses_positive = margin is not None or getattr(strategy, "uses_positive", True)
        self.has_loss = getattr(strategy, "has_loss", False)
        self.needs_distance = getattr(strategy, "needs_distance", True)
        self.counts = getattr(strategy, "counts", False)
        self.uses_batch = getattr(strategy, "uses_batch", False)

    def __repr__(self) -> str:
        ring = f", lowest={self.lowest}, highest={self.highest}" if self._ring else ""
        return f"Masked({self.strategy!r}, margin={self.margin}{ring})"

    @property
    def usual_scale(self) -> Any:
        """What the strategy declares."""
        return getattr(self.strategy, "usual_scale", None)

    def on_batch(self, d2_pos: Tensor, weight: Tensor | None = None) -> Strategy:
        """Mask the strategy that holds for a batch."""
        return MaskedRows(self.strategy.on_batch(d2_pos, weight), self.margin, self.lowest, self.highest)

    @property
    def _ring(self) -> bool:
        return self.lowest > 0 or self.highest < 1

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, *count: Tensor) -> PairWeights:
        masked = d2_neg == math.inf
        for times in count:
            masked = masked | (times == 0)
        outside = self._outside_ring(d2_neg.detach().masked_fill(masked, math.inf), *count) if self._ring else masked
        if self.margin is not None:
            masked = masked | (d2_neg < d2_pos[:, None] - self.margin)
        masked = masked | outside
        none = masked.all(dim=1, keepdim=True)
        seen = d2_neg.masked_fill(masked, math.inf).masked_fill(none, 0.0)
        neg, pos, value = self.strategy(d2_pos, seen, *(times.masked_fill(none, 1.0) for times in count))
        return PairWeights(
            neg.masked_fill(masked, 0.0),
            None if pos is None else pos.masked_fill(none[:, 0], 0.0),
            None if value is None else value.masked_fill(none[:, 0], 0.0) + 0 * d2_pos,  # hides no infinite distance
        )

    def _outside_ring(self, d2: Tensor, count: Tensor | None = None) -> Tensor:
        """Which columns lie outside the quantiles: all copies of a distance span one interval of ranks."""
        ordered, order = d2.sort(dim=1)
        closer, no_further = (torch.searchsorted(ordered, d2.contiguous(), right=right) for right in (False, True))
        number = (d2 < math.inf).sum(dim=1, keepdim=True)
        if count is not None:
            times = count.masked_fill(d2 == math.inf, 0.0)
            sums = torch.cat([torch.zeros_like(times[:, :1]), times.gather(1, order).cumsum(dim=1)], dim=1)
            closer, no_further, number = sums.gather(1, closer), sums.gather(1, no_further), sums[:, -1:]
        return (no_further / number <= self.lowest) | (closer / number >= self.highest)


def unmasked(strategy: Any) -> Any:
    """Return the strategy inside all masks."""
    while isinstance(strategy, Masked):
        strategy = strategy.strategy
    return strategy


def learnable_of(strategy: Any) -> Learnable | None:
    """Return the part of a strategy, masked or not, that keeps options of its own; None if there is none."""
    inner = unmasked(strategy)
    return inner if isinstance(inner, Learnable) else None
