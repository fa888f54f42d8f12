"""The φ/ψ family of contrastive losses: ``L = Σ_i φ(Σ_j ψ(D_+ - D_j))`` and the α that each implies (Eq. 1, 4).

A member whose ψ is an exponential has ``α = mass(log ξ) * softmax``: the row sum ``ξ φ'(ξ) / τ`` is the constraint of
Theorem 2, and the softmax its minimiser. These are formed from ``log ξ`` alone, so no temperature overflows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alphacl_plugins._checks import check_callable, check_finite, check_non_negative, check_positive
from alphacl_plugins.strategies.base import PairWeights, slope_of, split_excluded
from alphacl_plugins.strategies.factored import Exponent, Factored, Factors, Totals


class _FamilyMember(ABC):
    """``α_j = φ'(ξ) ψ'(D_+ - D_j)`` with ``ξ = Σ_k ψ(D_+ - D_k)``; the anchor's own loss is ``φ(ξ)``."""

    @abstractmethod
    def _phi(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``φ(ξ)`` and ``φ'(ξ)``."""

    @abstractmethod
    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``ψ(x)`` and ``ψ'(x)``, element by element."""

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        candidates = split_excluded(d2_neg)
        # Excluded ones stand in at a distance that occurs, since a user's ψ may overflow elsewhere.
        closest = d2_neg.detach().amin(dim=1, keepdim=True)
        psi, psi_slope = self._psi(d2_pos[:, None] - torch.where(candidates.excluded, closest, candidates.d2))
        value, phi_slope = self._phi(candidates.keep(psi).sum(dim=1))
        return PairWeights(candidates.keep(phi_slope[:, None] * psi_slope), value=value)


@dataclass(frozen=True)
class Family(_FamilyMember):
    """The loss of your own φ and ψ; their derivatives, and so α, come from autograd.

    ``L = φ(ξ)``, ``ξ = Σ_j ψ(D_+ - D_j)``, ``α_j = φ'(ξ) ψ'(D_+ - D_j)``.

    Args:
        phi: increasing differentiable function, tensor to tensor, element by element.
        psi: the same; an exponential may overflow at small temperatures, which the closed members below avoid.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, value ``[M]``.
    Raises: TypeError if ``phi`` or ``psi`` cannot be called.
    Source: Tian (2022), Eq. 1 and 4.

    >>> mine = Family(phi=torch.log, psi=torch.exp)
    >>> mine(torch.zeros(1), torch.tensor([[0.5, 0.5]])).neg
    tensor([[0.5000, 0.5000]])
    """

    phi: Callable[[Tensor], Tensor]
    psi: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_callable("Family.phi", self.phi)
        check_callable("Family.psi", self.psi)

    def _phi(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        return self.phi(xi), slope_of(self.phi, xi)

    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.psi(x), slope_of(self.psi, x)


class _ExponentialMember(Factored):
    """A member with ``ψ(x) = exp(x/τ + shift)``, written in ``log ξ`` and therefore safe at any temperature."""

    @property
    def _tau(self) -> float:
        return 1.0

    @property
    def _shift(self) -> float:
        return 0.0

    @abstractmethod
    def _value(self, log_xi: Tensor) -> Tensor:
        """Return ``φ(ξ)``."""

    @abstractmethod
    def _mass(self, log_xi: Tensor) -> Tensor:
        """Return the sum of the row, ``ξ φ'(ξ) / τ`` (Theorem 2)."""

    @property
    def exponent(self) -> Exponent:
        return Exponent(self._tau)

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 / -self._tau

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        log_xi = d2_pos / self._tau + totals.log_weight
        log_xi = log_xi + self._shift if self._shift else log_xi
        mass = self._mass(log_xi)
        return Factors(mass, pos=mass, value=self._value(log_xi))


def _log_add(log_xi: Tensor, log_constant: float) -> Tensor:
    """``log(ξ + constant)``; torch's softplus is only exact to 2e-9."""
    return torch.logaddexp(log_xi, torch.full_like(log_xi, log_constant))


@dataclass(frozen=True)
class InfoNCE(_ExponentialMember):
    """InfoNCE, the loss of SimCLR, MoCo and CPC: ``φ(x) = τ log(ε + x)``, ``ψ(x) = exp(x/τ)``.

    ``α_j = exp((D_+ - D_j)/τ) / (ε + Σ_k exp((D_+ - D_k)/τ))``; the loss is τ times the usual NT-Xent at ε = 1.

    Args:
        tau: temperature τ, > 0, in the unit of D.
        eps: weight ε of the positive in the denominator, >= 0: 1 for NT-Xent, 0 for the decoupled loss.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to ξ / (ε + ξ).
    Raises: ValueError, TypeError if ``tau`` is not a finite number > 0 or ``eps`` not one >= 0.
    Source: Tian (2022), Eq. 2 and 4.
    """

    tau_power: ClassVar[float] = 1.0
    has_loss: ClassVar[bool] = True

    tau: float = 0.5
    eps: float = 1.0

    def __post_init__(self) -> None:
        check_positive("InfoNCE.tau", self.tau)
        check_non_negative("InfoNCE.eps", self.eps)

    @property
    def _tau(self) -> float:
        return self.tau

    def _value(self, log_xi: Tensor) -> Tensor:
        if self.eps == 0:
            return self.tau * log_xi
        return self.tau * _log_add(log_xi, math.log(self.eps))

    def _mass(self, log_xi: Tensor) -> Tensor:
        if self.eps == 0:
            return torch.ones_like(log_xi)
        return torch.sigmoid(log_xi if self.eps == 1 else log_xi - math.log(self.eps))


@dataclass(frozen=True)
class MINE(_ExponentialMember):
    """The Donsker-Varadhan bound of MINE: ``φ(x) = log x``, ``ψ(x) = exp(x)``.

    ``α_j = exp(-D_j) / Σ_k exp(-D_k)``.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 1.
    Source: Tian (2022), Fig. 1; Belghazi et al. (2018).
    """

    def _value(self, log_xi: Tensor) -> Tensor:
        return log_xi

    def _mass(self, log_xi: Tensor) -> Tensor:
        return torch.ones_like(log_xi)


@dataclass(frozen=True)
class SoftTriplet(_ExponentialMember):
    """The soft triplet loss: ``φ(x) = τ log(1 + x)``, ``ψ(x) = exp(x/τ + ε)``.

    ``α_j = exp((D_+ - D_j)/τ + ε) / (1 + Σ_k exp((D_+ - D_k)/τ + ε))``.

    Args:
        tau: temperature τ, > 0, in the unit of D.
        eps: margin ε in the exponent, any finite number; τ ε in the unit of D.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to ξ / (1 + ξ).
    Raises: ValueError, TypeError if ``tau`` is not a finite number > 0 or ``eps`` not a finite number.
    Source: Tian (2022), Fig. 1; Tian et al. (2020), arXiv:2010.00578.
    """

    tau_power: ClassVar[float] = 1.0
    has_loss: ClassVar[bool] = True

    tau: float = 0.5
    eps: float = 0.0

    def __post_init__(self) -> None:
        check_positive("SoftTriplet.tau", self.tau)
        check_finite("SoftTriplet.eps", self.eps)

    @property
    def _tau(self) -> float:
        return self.tau

    @property
    def _shift(self) -> float:
        return self.eps

    def _value(self, log_xi: Tensor) -> Tensor:
        return self.tau * _log_add(log_xi, 0.0)

    def _mass(self, log_xi: Tensor) -> Tensor:
        return torch.sigmoid(log_xi)


@dataclass(frozen=True)
class NPlus1Tuplet(_ExponentialMember):
    """The N+1-tuplet loss: ``φ(x) = log(1 + x)``, ``ψ(x) = exp(x)``.

    ``α_j = exp(D_+ - D_j) / (1 + Σ_k exp(D_+ - D_k))``: InfoNCE at τ = 1.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to ξ / (1 + ξ).
    Source: Tian (2022), Fig. 1; Sohn (2016).
    """

    def _value(self, log_xi: Tensor) -> Tensor:
        return _log_add(log_xi, 0.0)

    def _mass(self, log_xi: Tensor) -> Tensor:
        return torch.sigmoid(log_xi)


@dataclass(frozen=True)
class LiftedStructured(_ExponentialMember):
    """The lifted structured loss: ``φ(x) = max(log x, 0)²``, ``ψ(x) = exp(x + ε)``.

    ``α_j = 2 max(log ξ, 0) exp(-D_j) / Σ_k exp(-D_k)``: an anchor that is separated by the margin has no weight.

    Args:
        eps: margin ε, any finite number, in the unit of D.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 2 max(log ξ, 0).
    Raises: ValueError, TypeError if ``eps`` is not a finite number.
    Source: Tian (2022), Fig. 1; Oh Song et al. (2016).
    """

    eps: float = 1.0

    def __post_init__(self) -> None:
        check_finite("LiftedStructured.eps", self.eps)

    @property
    def _shift(self) -> float:
        return self.eps

    def _value(self, log_xi: Tensor) -> Tensor:
        return log_xi.clamp_min(0.0).square()

    def _mass(self, log_xi: Tensor) -> Tensor:
        return 2 * log_xi.clamp_min(0.0)


@dataclass(frozen=True)
class Triplet(_FamilyMember):
    """The triplet loss: ``φ(x) = x``, ``ψ(x) = max(x + ε, 0)``.

    ``α_j = 1`` where the candidate violates the margin, ``D_j < D_+ + ε``, else 0.

    Args:
        eps: margin ε, any finite number, in the unit of D.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, each 0 or 1.
    Raises: ValueError, TypeError if ``eps`` is not a finite number.
    Source: Tian (2022), Fig. 1; Schroff et al. (2015).
    """

    eps: float = 0.5

    def __post_init__(self) -> None:
        check_finite("Triplet.eps", self.eps)

    def _phi(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        return xi, torch.ones_like(xi)

    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + self.eps).clamp_min(0.0), (x + self.eps > 0).to(x.dtype)


@dataclass(frozen=True)
class ModifiedTriplet(_FamilyMember):
    """The modified triplet loss: ``φ(x) = x``, ``ψ(x) = sigmoid(c x)``.

    ``α_j = c s (1 - s)`` with ``s = sigmoid(c (D_+ - D_j))``: most weight where the two distances are equal.

    Args:
        c: steepness, > 0, in the inverse unit of D.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, each in [0, c/4].
    Raises: ValueError, TypeError if ``c`` is not a finite number > 0.
    Source: Tian (2022), Fig. 1; Coria et al. (2020).
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        check_positive("ModifiedTriplet.c", self.c)

    def _phi(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        return xi, torch.ones_like(xi)

    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = torch.sigmoid(self.c * x)
        return s, self.c * s * torch.sigmoid(-self.c * x)


@dataclass(frozen=True)
class TripletContrastive(Factored):
    """The linear member: ``φ(x) = x``, ``ψ(x) = x``.

    ``α_j = 1``: a plain difference of squared distances; K times `Uniform`.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, each 1.
    Source: Tian (2022), Fig. 1; Ji et al. (2021).
    """

    def log_weight(self, d2: Tensor) -> Tensor:
        return torch.zeros_like(d2)

    def potential(self, d2: Tensor) -> Tensor:
        return d2

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        mass = torch.ones_like(d2_pos) * totals.number
        return Factors(mass, pos=mass, value=mass * d2_pos - totals.potential)
