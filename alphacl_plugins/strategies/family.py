"""The φ/ψ family of contrastive losses: ``L = Σ_i φ(Σ_j ψ(D_+ - D_j))`` and the α that each implies (Eq. 1, 4)."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_callable
from alphacl_plugins.strategies.base import PairWeights, Strategy, on_copies, slope_of


class FamilyMember(Strategy):
    """``α_j = φ'(ξ) ψ'(D_+ - D_j)`` with ``ξ = Σ_k ψ(D_+ - D_k)``; the anchor's own loss is ``φ(ξ)``."""

    needs_distance = False

    pure = True
    counts = True

    @abstractmethod
    def _phi(self, xi: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``φ(ξ)`` and ``φ'(ξ)``."""

    @abstractmethod
    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``ψ(x)`` and ``ψ'(x)``, element by element; both 0 at -inf, where a column is excluded."""

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        psi, psi_slope = self._psi(d2_pos[:, None] - d2_neg)
        psi, psi_slope = (psi, psi_slope) if count is None else (psi * count, psi_slope * count)
        value, phi_slope = self._phi(psi.sum(dim=1))
        value = value + 0 * d2_pos  # a bounded φ or ψ does not hide a distance that is not finite
        return PairWeights(phi_slope[:, None] * psi_slope, value=value)


@dataclass(frozen=True)
class Family(FamilyMember):
    """The loss of your own φ and ψ; their derivatives, and so α, come from autograd.

    ``L = φ(ξ)``, ``ξ = Σ_j ψ(D_+ - D_j)``, ``α_j = φ'(ξ) ψ'(D_+ - D_j)``.

    Args:
        phi: increasing differentiable function, tensor to tensor, element by element; it may work in place.
        psi: the same; an exponential may overflow at small temperatures, which the closed members avoid.

    Returns:
        Weights ``[M, K]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if ``phi`` or ``psi`` cannot be called.

    Source:
        Tian (2022), Eq. 1 and 4.

    Examples:
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
        phi = on_copies(self.phi)
        return phi(xi), slope_of(phi, xi)

    def _psi(self, x: Tensor) -> tuple[Tensor, Tensor]:
        psi, excluded = on_copies(self.psi), x == -math.inf
        largest = x.detach().amax(dim=1, keepdim=True)  # a value that occurs: at others ψ may overflow
        x = torch.where(excluded, largest, x)
        return psi(x).masked_fill(excluded, 0.0), slope_of(psi, x).masked_fill(excluded, 0.0)
