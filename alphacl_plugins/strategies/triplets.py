"""Members of the family that compare each negative with the positive by itself: ``φ(x) = x``."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_finite, check_positive
from alphacl_plugins.strategies.family import FamilyMember
from alphacl_plugins.strategies.separable import RowFactors, Separable, Totals


@dataclass(frozen=True)
class Triplet(FamilyMember):
    """The triplet loss: ``φ(x) = x``, ``ψ(x) = max(x + ε, 0)``.

    ``α_j = 1`` where the negative violates the margin, ``D_j < D_+ + ε``, else 0.

    Args:
        eps: margin ε, any finite number, in the unit of D.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); each 0 or 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``eps`` is not finite.

    Source:
        Tian (2022), Fig. 1; Schroff et al. (2015).
    """

    eps: float = 0.5

    def __post_init__(self) -> None:
        check_finite("Triplet.eps", self.eps)

    def _phi(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        return xi, torch.ones_like(xi)

    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        psi = (x + self.eps).clamp_min(0.0)
        return psi, psi.sign()


@dataclass(frozen=True)
class ModifiedTriplet(FamilyMember):
    """The modified triplet loss: ``φ(x) = x``, ``ψ(x) = sigmoid(c x)``.

    ``α_j = c s (1 - s)`` with ``s = sigmoid(c (D_+ - D_j))``: most weight where the two distances are equal.

    Args:
        c: steepness, > 0, in the inverse unit of D.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); each in [0, c/4].

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``c`` is not finite and > 0.

    Source:
        Tian (2022), Fig. 1; Coria et al. (2020).
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
class TripletContrastive(Separable):
    """The linear member: ``φ(x) = x``, ``ψ(x) = x``.

    ``α_j = 1``: a plain difference of squared distances; K times `Uniform`.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); each 1.

    Source:
        Tian (2022), Fig. 1; Ji et al. (2021).
    """

    needs_distance = False

    uses_positive = False

    def log_weight(self, d2: Tensor) -> Tensor:
        return torch.zeros_like(d2)

    def potential(self, d2: Tensor) -> Tensor:
        return d2

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        row_sum = torch.ones_like(d2_pos) * totals.number
        return RowFactors(row_sum, pos=row_sum, value=row_sum * d2_pos - totals.potential)
