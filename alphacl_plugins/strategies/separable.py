"""Strategies whose weights separate, ``α_j = row_sum · w(D_j) / Σ_k w(D_k)``: the softmax types and the kernels.

w sees one distance; the row sum sees the positive and sums over all negatives. So several positives cost little, and a
row can be formed block by block: first the sums, then the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphacl_plugins.strategies.base import PairWeights, Strategy, split_excluded


class Totals(NamedTuple):
    """Sums over the negatives of each anchor, ``[M, 1]``."""

    log_sum_exp: Tensor  # log Σ_j w(D_j)
    potential: Tensor | float  # Σ_j u(D_j); 0 for a strategy without a potential
    number: Tensor | int  # of negatives; one int if all anchors have as many

    def of(self, i: slice) -> Totals:
        """Totals of the anchors i."""
        return Totals(*(part[i] if isinstance(part, Tensor) else part for part in self))  # type: ignore[arg-type]


class RowFactors(NamedTuple):
    """Factors of a row if this were the anchor's only positive, ``[M, P]``."""

    row_sum: Tensor  # of the negatives' weights
    pos: Tensor  # weight of the positive
    value: Tensor | None = None  # loss of the anchor; None stands for -E


class ExpPower(NamedTuple):
    """A weight ``w(D) = exp(-D^power / tau)``."""

    tau: float | Tensor
    power: float = 1.0


class Separable(Strategy):
    """Base of the strategies with ``α_j = row_sum · w(D_j) / Σ_k w(D_k)``.

    A subclass says what w is and, in `factors`, what the row sum is: 1 by default. It does not define ``__call__``, or
    else it counts as any other strategy.

    Attributes:
        uses_totals: False if `factors` ignores its ``totals``, which are then not formed.
    """

    pure = True
    counts = True
    uses_totals: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Use this form unless the subclass has a ``__call__`` or parameters of its own."""
        super().__init_subclass__(**options)
        cls.separable = cls.__call__ is Separable.__call__ and not issubclass(cls, nn.Module)

    @abstractmethod
    def log_weight(self, d2: Tensor) -> Tensor:
        """Return ``log w(D)``, element by element, finite for every finite D, in a new tensor.

        Engines rely on it: for two rows ``w(D_ij) = w(D_ji)``.
        """

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        """Return row sum, weight of the positive and value for each positive by itself, ``[M, P]`` each."""
        ones = torch.ones_like(d2_pos)
        return RowFactors(ones, pos=ones)

    def potential(self, d2: Tensor) -> Tensor | None:
        """Return u(D) if `factors` needs the sum of another function over the negatives, else None."""
        return None

    @property
    def exponent(self) -> ExpPower | None:
        """How w falls with D, if it is an exponential of a power; None: it is another function."""
        return None

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        negatives = split_excluded(d2_neg, count)
        log_weight = self.log_weight(negatives.d2).masked_fill(negatives.excluded, -torch.inf)
        potential = self.potential(negatives.d2)
        if count is not None:
            log_weight, potential = log_weight + count.log(), None if potential is None else potential * count
        totals = Totals(
            torch.logsumexp(log_weight, dim=1, keepdim=True),
            0.0 if potential is None else negatives.zero_excluded(potential).sum(dim=1, keepdim=True),
            negatives.number(),
        )
        row_sum, pos, value = self.factors(d2_pos[:, None], totals)
        neg = row_sum * torch.softmax(log_weight, dim=1)
        return PairWeights(neg, pos[:, 0], None if value is None else value[:, 0])
