"""Members of the family with ``ψ(x) = exp(x/τ + shift)``: InfoNCE, MINE, the soft triplet loss and others.

``α = row_sum(log ξ) * softmax``: the row sum ``ξ φ'(ξ) / τ`` is the constraint of Theorem 2, the softmax its minimiser.
Both are formed from ``log ξ``, so no temperature overflows.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from alphacl_plugins.checks import check_finite, check_non_negative, check_temperature
from alphacl_plugins.strategies.separable import RowFactors, Softmax, Totals


class ExponentialMember(Softmax):
    """A member of the family with ``ψ(x) = exp(x/τ + shift)``."""

    needs_distance = False

    tau: float | Tensor = 1.0

    @abstractmethod
    def _value(self, log_xi: Tensor) -> Tensor:
        """Return ``φ(ξ)``."""

    @abstractmethod
    def _row_sum(self, log_xi: Tensor) -> Tensor:
        """Return the sum of the row, ``ξ φ'(ξ) / τ`` (Theorem 2)."""

    @property
    def _shift(self) -> float:
        return 0.0

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        if isinstance(self.tau, Tensor):
            log_xi = d2_pos / self.tau + totals.log_sum_exp
        else:
            log_xi = torch.add(totals.log_sum_exp, d2_pos, alpha=1 / self.tau)
        log_xi = log_xi + self._shift if self._shift else log_xi
        row_sum = self._row_sum(log_xi)
        return RowFactors(row_sum, pos=row_sum, value=self._value(log_xi))


def _log_add(log_xi: Tensor, log_constant: float) -> Tensor:
    """``log(ξ + constant)``."""
    if log_constant == 0:
        return softplus(log_xi, threshold=50)  # from there on 1 is nothing beside ξ, in float64 too
    return torch.logaddexp(log_xi, torch.full_like(log_xi, log_constant))


@dataclass(frozen=True)
class InfoNCE(ExponentialMember):
    """InfoNCE, the loss of SimCLR, MoCo and CPC: ``φ(x) = τ log(ε + x)``, ``ψ(x) = exp(x/τ)``.

    ``α_j = exp((D_+ - D_j)/τ) / (ε + Σ_k exp((D_+ - D_k)/τ))``; the loss is τ times the usual NT-Xent at ε = 1.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        eps: weight ε of the positive in the denominator, >= 0: 1 for NT-Xent, 0 for the decoupled loss.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to ξ / (ε + ξ).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0 or ``eps`` not finite and >= 0.

    Source:
        Tian (2022), Eq. 2 and 4.
    """

    has_loss = True

    tau: float | Tensor = 0.5
    eps: float = 1.0

    def __post_init__(self) -> None:
        check_temperature("InfoNCE.tau", self.tau)
        check_non_negative("InfoNCE.eps", self.eps)

    def _value(self, log_xi: Tensor) -> Tensor:
        if self.eps == 0:
            return self.tau * log_xi
        return self.tau * _log_add(log_xi, math.log(self.eps))

    def _row_sum(self, log_xi: Tensor) -> Tensor:
        if self.eps == 0:
            return torch.ones_like(log_xi)
        return torch.sigmoid(log_xi if self.eps == 1 else log_xi - math.log(self.eps))


@dataclass(frozen=True)
class MINE(ExponentialMember):
    """The Donsker-Varadhan bound of MINE: ``φ(x) = log x``, ``ψ(x) = exp(x)``.

    ``α_j = exp(-D_j) / Σ_k exp(-D_k)``.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Source:
        Tian (2022), Fig. 1; Belghazi et al. (2018).
    """

    usual_scale = None  # there is no τ

    uses_positive = False

    def _value(self, log_xi: Tensor) -> Tensor:
        return log_xi

    def _row_sum(self, log_xi: Tensor) -> Tensor:
        return torch.ones_like(log_xi)


@dataclass(frozen=True)
class SoftTriplet(ExponentialMember):
    """The soft triplet loss: ``φ(x) = τ log(1 + x)``, ``ψ(x) = exp(x/τ + ε)``.

    ``α_j = exp((D_+ - D_j)/τ + ε) / (1 + Σ_k exp((D_+ - D_k)/τ + ε))``.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        eps: margin ε in the exponent, any finite number; τ ε in the unit of D.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to ξ / (1 + ξ).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0 or ``eps`` not finite.

    Source:
        Tian (2022), Fig. 1; Tian et al. (2020), arXiv:2010.00578.
    """

    has_loss = True

    tau: float | Tensor = 0.5
    eps: float = 0.0

    def __post_init__(self) -> None:
        check_temperature("SoftTriplet.tau", self.tau)
        check_finite("SoftTriplet.eps", self.eps)

    @property
    def _shift(self) -> float:
        return self.eps

    def _value(self, log_xi: Tensor) -> Tensor:
        return self.tau * _log_add(log_xi, 0.0)

    def _row_sum(self, log_xi: Tensor) -> Tensor:
        return torch.sigmoid(log_xi)


@dataclass(frozen=True)
class NPlus1Tuplet(ExponentialMember):
    """The N+1-tuplet loss: ``φ(x) = log(1 + x)``, ``ψ(x) = exp(x)``.

    ``α_j = exp(D_+ - D_j) / (1 + Σ_k exp(D_+ - D_k))``: InfoNCE at τ = 1.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to ξ / (1 + ξ).

    Source:
        Tian (2022), Fig. 1; Sohn (2016).
    """

    usual_scale = None  # there is no τ

    def _value(self, log_xi: Tensor) -> Tensor:
        return _log_add(log_xi, 0.0)

    def _row_sum(self, log_xi: Tensor) -> Tensor:
        return torch.sigmoid(log_xi)


@dataclass(frozen=True)
class LiftedStructured(ExponentialMember):
    """The lifted structured loss: ``φ(x) = max(log x, 0)²``, ``ψ(x) = exp(x + ε)``.

    ``α_j = 2 max(log ξ, 0) exp(-D_j) / Σ_k exp(-D_k)``: an anchor that is separated by the margin has no weight.

    Args:
        eps: margin ε, any finite number, in the unit of D.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 2 max(log ξ, 0).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``eps`` is not finite.

    Source:
        Tian (2022), Fig. 1; Oh Song et al. (2016).
    """

    usual_scale = None  # there is no τ

    eps: float = 1.0

    def __post_init__(self) -> None:
        check_finite("LiftedStructured.eps", self.eps)

    @property
    def _shift(self) -> float:
        return self.eps

    def _value(self, log_xi: Tensor) -> Tensor:
        return log_xi.clamp_min(0.0).square()

    def _row_sum(self, log_xi: Tensor) -> Tensor:
        return 2 * log_xi.clamp_min(0.0)
