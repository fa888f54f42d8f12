"""Strategies whose weights separate, ``α_j = row_sum · w(D_j) / Σ_k w(D_k)``: the softmax types and the kernels.

w sees one distance; the row sum sees the positive and sums over all negatives. So several positives cost little, and a
row can be formed block by block: first the sums, then the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphacl_plugins.strategies.base import Negatives, PairWeights, Strategy, split_excluded


class Totals(NamedTuple):
    """Sums over the negatives of each anchor, ``[M, 1]``."""

    log_sum_exp: Tensor  # log Σ_j w(D_j)
    potential: Tensor | float  # Σ_j u(D_j); 0 for a strategy without a potential
    number: Tensor | int  # of negatives; one int if all anchors have as many
    log_mass: Tensor | float = 0.0  # log Σ_j exp v(D_j); 0 for a strategy without a log-mass

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
    separable = True
    counts = True
    uses_totals: bool = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Use this form unless the subclass says otherwise, or has a ``__call__`` or parameters of its own."""
        super().__init_subclass__(**options)
        if issubclass(cls, nn.Module) and "separable" not in vars(cls):
            cls.separable = False

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

    def log_mass(self, d2: Tensor) -> Tensor | None:
        """Return v(D), finite and in a new tensor, if `factors` needs ``log Σ_j exp v(D_j)`` as well, else None.

        The sum is formed in logarithms, so it neither overflows nor underflows.
        """
        return None

    @property
    def exponent(self) -> ExpPower | None:
        """How w falls with D, if it is an exponential of a power and no other sum is needed; else None."""
        return None

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        if self.uses_batch:
            of_batch: Any = self.on_batch(d2_pos)
            return of_batch(d2_pos, d2_neg, count)  # type: ignore[no-any-return]
        negatives = split_excluded(d2_neg, count)
        log_weight = self._of_copies(self.log_weight(negatives.d2), negatives)
        potential, log_mass = self.potential(negatives.d2), self.log_mass(negatives.d2)
        potential = potential if count is None or potential is None else potential * count
        totals = Totals(
            torch.logsumexp(log_weight, dim=1, keepdim=True),
            0.0 if potential is None else negatives.zero_excluded(potential).sum(dim=1, keepdim=True),
            negatives.number(),
            0.0 if log_mass is None else self._of_copies(log_mass, negatives).logsumexp(dim=1, keepdim=True),
        )
        row_sum, pos, value = self.factors(d2_pos[:, None], totals)
        neg = row_sum * torch.softmax(log_weight, dim=1)
        return PairWeights(neg, pos[:, 0], None if value is None else value[:, 0])

    @staticmethod
    def _of_copies(log: Tensor, negatives: Negatives) -> Tensor:
        """Add the logarithm of how often each negative counts; -inf where excluded."""
        log = log if negatives.times is None else log + negatives.times.log()
        return log.masked_fill(negatives.excluded, -torch.inf)


class Softmax(Separable):
    """Base of the strategies with ``w(D) = exp(-D / τ)``."""

    tau: float | Tensor

    @property
    def exponent(self) -> ExpPower:
        return ExpPower(self.tau)

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 / -self.tau
