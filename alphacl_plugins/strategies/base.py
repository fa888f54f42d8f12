"""What a strategy is: the rows it sees, and the pair weights it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class PairWeights(NamedTuple):
    """The pairwise importance α of each anchor, and the anchor's own loss where its strategy has one.

    Args:
        neg: weight of each candidate, >= 0; the loss takes no notice of those of excluded candidates.
        pos: weight of the positive; None stands for the row sum of ``neg``, the paper's choice (Eq. 5).
        value: loss of each anchor, whose gradient is that of ``-E`` at these weights; None stands for ``-E`` itself,
            ``pos * D_+ - Σ_j α_j D_j``.

    Shape: ``neg [M, K]``, ``pos [M]``, ``value [M]``.
    """

    neg: Tensor
    pos: Tensor | None = None
    value: Tensor | None = None


class Strategy(Protocol):
    """A rule that turns the distances of an anchor into pair weights, row by row.

    Row by row means that a row of the result depends on the same row of the arguments alone, which is what keeps many
    processes exact. A strategy may also declare class attributes or properties ``negatives`` and
    ``symmetric``: what it is meant for, used by the loss unless it is told otherwise; and, for anchors with several
    positives, ``linear_in_positive`` or ``average`` (see `alphacl_plugins.positives`). One with a temperature ``tau``
    that declares ``tau_power`` (``α(D; τ) = α(D / τ^tau_power; 1)``) and ``has_loss`` (whether there is a loss
    ``L(D; τ) = τ L(D / τ; 1)`` with the gradient of ``-E``) can be `Tempered`.
    """

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        """Weigh candidates at ``d2_neg [M, K]`` (+inf: excluded) against a positive at ``d2_pos [M]``."""


class Candidates(NamedTuple):
    """The candidates of each anchor with finite distances everywhere, so that no inf reaches a gradient."""

    d2: Tensor  # [M, K], 0 where excluded
    excluded: Tensor  # [M, K] bool

    def number(self) -> Tensor:
        """How many candidates each anchor has, ``[M, 1]``."""
        return (~self.excluded).sum(dim=1, keepdim=True).to(self.d2.dtype)

    def keep(self, weights: Tensor) -> Tensor:
        """Give excluded candidates weight exactly 0."""
        return weights.masked_fill(self.excluded, 0.0)


def split_excluded(d2_neg: Tensor) -> Candidates:
    """Tell the excluded candidates (+inf) from the others."""
    excluded = torch.isinf(d2_neg)
    return Candidates(d2_neg.masked_fill(excluded, 0.0), excluded)


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivative of a function whose results each depend on one entry of x, by autograd; itself differentiable."""
    slope: Tensor = torch.func.grad(lambda y: function(y).sum())(x)
    return slope
