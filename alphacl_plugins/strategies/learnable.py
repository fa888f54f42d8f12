"""A strategy some of whose options are parameters, or buffers: what all such have in common."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.strategies.base import Around, PairWeights, split_excluded


class Learnable(Around, ABC):
    """A dataclass of a strategy, with options that are kept here as tensors and change from step to step.

    α follows the options without a host sync, and no gradient passes through α: they learn from the loss, whose slopes
    follow from E and from ``Σ_j α_ij - α_i+``.

    Args:
        strategy: a dataclass; its options are where these begin.
        learnable: whether they learn. False: they stay as they are, or are set.
    """

    def __init__(self, strategy: Any, learnable: bool) -> None:
        super().__init__(strategy)
        self.learnable = learnable

    @abstractmethod
    def _options(self) -> dict[str, Tensor]:
        """Return the options in force as 0-dim tensors, with their graph."""

    @abstractmethod
    def _slopes(self, energy: Tensor, excess: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return parameters, 0-dim and with their graph, each with the slope of the loss of each anchor."""

    @property
    def in_force(self) -> dict[str, Tensor]:
        """The options in force by name, detached 0-dim tensors; they stand in the loss's ``last_stats``."""
        return {name: option.detach() for name, option in self._options().items()}

    def current(self, *, detach: bool = True) -> Any:
        """Return the plain strategy with the options in force.

        Args:
            detach: False: α has a gradient for the parameters.
        """
        return dataclasses.replace(self.strategy, **(self.in_force if detach else self._options()))

    def learn_from(self, value: Tensor, energy: Tensor, excess: Tensor) -> Tensor:
        """Return the value, with the gradient of the loss in its usual scale for the parameters.

        Args:
            value: loss of each anchor, or the mean of all; its own gradient is dropped.
            energy: E of each anchor, or the mean of all, in the same shape.
            excess: ``Σ_j α_ij - α_i+``, likewise.
        """
        if not self.learnable:
            return value
        value = value.detach()
        for parameter, slope in self._slopes(energy.detach(), excess.detach()):
            value = value + slope * (parameter - parameter.detach())
        return value

    def forward(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        """Weigh each anchor's negatives against its positive; the value has the gradient for the parameters.

        Args:
            d2_pos: distance of each anchor to its positive, ``[M]``.
            d2_neg: distances to its negatives, ``[M, K]``; +inf where a column is excluded.
        """
        neg, pos, value = self.current()(d2_pos, d2_neg)
        if self.learnable:
            negatives = split_excluded(d2_neg)
            weights = negatives.zero_excluded(neg)
            row_sum = weights.sum(dim=1)
            pull = row_sum if pos is None else pos
            energy = (weights * negatives.d2).sum(dim=1) - pull * d2_pos
            value = self.learn_from(-energy if value is None else value, energy, row_sum - pull)
        return PairWeights(neg, pos, value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Learnable:
        """Move to devices, but keep dtypes: in bfloat16 the steps of an optimiser would be lost."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]
        return self


class Bounded(torch.autograd.Function):
    """The identity; backward, a gradient summed over all anchors whose descent leads out of the bounds becomes 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, low: float, high: float) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.low, ctx.high = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (slope,) = ctx.saved_tensors, gradients
        outward = ((x <= ctx.low) & (slope > 0)) | ((x >= ctx.high) & (slope < 0))
        return slope.masked_fill(outward, 0.0), None, None
