"""Strategies whose weights factor, ``α_j = c · w(D_j)``: the softmax types and the kernels.

w sees one distance; c, the factor of the anchor, sees its positive and sums over all its candidates. So several
positives cost little, and a row can be formed block by block: first the sums, then the weights (see
`alphacl_plugins.ring`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.strategies.base import PairWeights, split_excluded


class Totals(NamedTuple):
    """Sums over the candidates of each anchor, ``[M, 1]``."""

    log_weight: Tensor  # log Σ_j w(D_j)
    potential: Tensor | float  # Σ_j u(D_j), 0 for a strategy without potential
    number: Tensor | int  # of candidates; one int for all anchors if they have as many

    def of(self, i: slice) -> Totals:
        """Those of the anchors i."""
        return Totals(*(part[i] if isinstance(part, Tensor) else part for part in self))  # type: ignore[arg-type]


class Factors(NamedTuple):
    """What each positive, taken by itself, makes of the row: ``[M, P]``."""

    mass: Tensor  # sum of the candidates' weights
    pos: Tensor  # weight of the positive
    value: Tensor | None = None  # loss of the anchor; None stands for -E


class Exponent(NamedTuple):
    """Of a weight ``w(D) = exp(-D^power / tau)``."""

    tau: float | Tensor
    power: float = 1.0


class FactoredRows(NamedTuple):
    """Pair weights whose rows are not scaled yet: ``neg = mass * softmax``."""

    softmax: Tensor  # [M, K]
    mass: Tensor  # [M, 1]
    pos: Tensor  # [M, P], each times its share
    value: Tensor | None  # [M]
    log_top: Tensor  # [M, 1], log of the largest w(D_j)
    log_sum: Tensor  # [M, 1], log of the sum of all, in units of the largest


class Factored(ABC):
    """Base of the strategies with ``α_j = mass · w(D_j) / Σ_k w(D_k)``; a subclass says what w and the mass are."""

    @abstractmethod
    def log_weight(self, d2: Tensor) -> Tensor:
        """Return ``log w(D)`` of each candidate by itself, finite for every finite D, in a tensor of its own."""

    @abstractmethod
    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        """Return mass, positive weight and value for each positive ``[M, P]`` by itself."""

    def potential(self, d2: Tensor) -> Tensor | None:
        """Return u(D), for a value that needs the sum of another function of the candidates; None: no need."""
        return None

    @property
    def exponent(self) -> Exponent | None:
        """How w falls with D, if it is an exponential of a power; None: it is another function."""
        return None

    @property
    def factored(self) -> Factored:
        """The strategy in this form; others have no such attribute, or None."""
        return self

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        neg, pos, value = self.average(d2_pos[:, None], torch.ones_like(d2_pos)[:, None], d2_neg)
        assert pos is not None  # as `average` returns it
        return PairWeights(neg, pos[:, 0], value)

    def average(self, d2_pos: Tensor, share: Tensor, d2_neg: Tensor) -> PairWeights:
        """Mean over positives ``[M, P]`` with shares that sum to 1: the candidates keep one and the same softmax."""
        candidates = split_excluded(d2_neg)
        log_weights = self.log_weight(candidates.d2).masked_fill(candidates.excluded, -torch.inf)
        potential = self.potential(candidates.d2)
        potential = None if potential is None else candidates.keep(potential).sum(dim=1, keepdim=True)
        rows = self.rows(d2_pos, share, log_weights, potential, candidates.number())
        return PairWeights(rows.mass * rows.softmax, rows.pos, rows.value)

    def rows(
        self, d2_pos: Tensor, share: Tensor, log_weights: Tensor, potential: Tensor | None, number: Tensor | int
    ) -> FactoredRows:
        """Form the rows from the candidates' ``log w`` (-inf where excluded), sum of potentials and number."""
        softmax = torch.softmax(log_weights, dim=1)
        log_top, log_sum = log_weights.amax(dim=1, keepdim=True), -softmax.amax(dim=1, keepdim=True).log()
        totals = Totals(log_top + log_sum, 0.0 if potential is None else potential, number)
        mass, pos, value = self.factors(d2_pos, totals)
        if d2_pos.shape[1] == 1:  # whose share is 1
            return FactoredRows(softmax, mass, pos, None if value is None else value[:, 0], log_top, log_sum)
        mass, pos = (share * mass).sum(dim=1, keepdim=True), share * pos
        value = None if value is None else (share * value).sum(dim=1)
        return FactoredRows(softmax, mass, pos, value, log_top, log_sum)
