"""What a strategy is: which distances it sees, which weights it returns, and what it declares about itself."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class PairWeights(NamedTuple):
    """The pairwise importance α of M anchors with K negatives each, and each anchor's own loss if there is one.

    Attributes:
        neg: weight of each negative, ``[M, K]``; the loss ignores weights of excluded columns. Usually >= 0. A signed α
            is legitimate as well; the entropy in the loss's statistics is then that of its positive part.
        pos: weight of the positive, ``[M]``. None, the default: the row sum of ``neg``, the paper's choice (Eq. 5).
        value: loss of each anchor, ``[M]``, whose gradient is that of ``-E`` at these weights. None, the default:
            ``-E`` itself, ``pos * D_+ - Σ_j α_j D_j``.
    """

    neg: Tensor
    pos: Tensor | None = None
    value: Tensor | None = None


class Strategy(ABC):
    """A rule that turns the distances of each anchor into pair weights, row by row.

    Row by row: a row of the result depends on the same row of the arguments alone. This keeps blocks and many processes
    exact.

    A strategy of your own is a subclass, or any object, ``nn.Module`` or function ``(d2_pos, d2_neg) -> PairWeights``;
    it may declare the attributes below.

    Attributes:
        negatives: the negatives that the strategy is meant for: "both", "same", "cross" or "queue". The loss uses them
            unless told otherwise. None: no preference.
        symmetric: whether every view gives anchors, as for ``negatives``.
        uses_positive: False if the weights of the negatives do not depend on D_+ and the loss, if any, is linear in
            D_+. An anchor with several positives then costs as little as with one.
        has_loss: whether there is a loss ``L(D; τ) = τ L(D / τ; 1)`` with the gradient of ``-E``, from which a
            temperature can learn.
        needs_distance: False if adding a number to all distances of an anchor changes nothing, so that minus a dot
            product serves as D.
        counts: whether a call takes a third argument, how often each negative counts, ``[M, K]``, >= 0: the answer is
            what it would be with copies of them, ``neg`` the weights of all copies together.
        usual_scale: what the value is multiplied by with ``scale="ntxent"``: 1/τ; None without a τ.
        uses_batch: whether weights depend on how far apart the views of all samples are. The loss then asks `on_batch`,
            once for each batch, for the strategy to use.
        separable: whether the engines may use the form of `Separable`; subclasses of it set this by themselves.
        pure: whether a call leaves its arguments unchanged and returns weights of the right shape and dtype, 0 where a
            column is excluded. The loss then passes its own tensors and checks nothing. A subclass that defines
            ``__call__`` has to say so itself.
    """

    negatives: str | None = None
    symmetric: bool | None = None
    uses_positive: bool = True
    has_loss: bool = False
    pure: bool = False
    counts: bool = False
    needs_distance: bool = True
    uses_batch: bool = False
    separable: bool = False

    @property
    def usual_scale(self) -> Any:
        """1/τ, a number or a tensor; None without a temperature."""
        tau = getattr(self, "tau", None)
        return None if tau is None else 1 / (tau.detach() if isinstance(tau, Tensor) else tau)

    def on_batch(self, d2_pos: Tensor, weight: Tensor | None = None) -> Strategy:
        """Return this strategy as it is in a batch; called by itself, a strategy takes its rows for the batch.

        Args:
            d2_pos: half squared distances between the views of every sample of all ranks, ``[M, P]``, without gradient.
            weight: of the anchors in means, ``[M]``; None for 1.
        """
        return self

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep ``pure`` and ``separable`` from being inherited beside another ``__call__``."""
        super().__init_subclass__(**options)
        for name in ("pure", "separable"):
            first = next(base for base in cls.__mro__ if name in vars(base) or "__call__" in vars(base))
            if name not in vars(first):
                setattr(cls, name, False)

    @abstractmethod
    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        """Weigh each anchor's negatives against its positive.

        Args:
            d2_pos: half squared distance D_+ of each anchor to its positive, ``[M]``.
            d2_neg: half squared distances D_j to its negatives, ``[M, K]``; +inf where a column is excluded.

        Returns:
            The weights; those of excluded columns are ignored.
        """


class Around(nn.Module):
    """A module around a strategy, which is meant for the same negatives."""

    def __init__(self, strategy: Any) -> None:
        super().__init__()
        self.strategy = strategy

    @property
    def negatives(self) -> str | None:
        """What the strategy declares."""
        return getattr(self.strategy, "negatives", None)

    @property
    def symmetric(self) -> bool | None:
        """What the strategy declares."""
        return getattr(self.strategy, "symmetric", None)


AnyStrategy = Strategy | Callable[[Tensor, Tensor], PairWeights]


class Negatives(NamedTuple):
    """Distances that are finite everywhere, so that no inf reaches a gradient, and which columns are excluded."""

    d2: Tensor  # [M, K], 0 where excluded
    excluded: Tensor  # [M, K] bool
    times: Tensor | None = None  # [M, K], how often each counts; None for once

    def number(self) -> Tensor:
        """How many negatives each anchor has, ``[M, 1]``."""
        number = (~self.excluded).to(self.d2.dtype)
        return (number if self.times is None else number * self.times).sum(dim=1, keepdim=True)

    def zero_excluded(self, weights: Tensor) -> Tensor:
        """Give excluded columns weight exactly 0."""
        return weights.masked_fill(self.excluded, 0.0)


def split_excluded(d2_neg: Tensor, count: Tensor | None = None) -> Negatives:
    """Tell excluded columns (+inf) from negatives."""
    excluded = d2_neg == math.inf  # quicker than isinf
    return Negatives(d2_neg.masked_fill(excluded, 0.0), excluded, count)


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivative of a function that acts element by element, by autograd; itself differentiable."""
    slope: Tensor = torch.func.grad(lambda y: function(y).sum())(x)
    return slope


def on_copies(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Let a user's function work in place, ``x.exp_()``, without changing a tensor of ours."""
    return lambda x: function(x.clone())
