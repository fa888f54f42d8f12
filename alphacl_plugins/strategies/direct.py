"""α set directly, with no inner optimisation: Direct (Eq. 12) and Uniform."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alphacl_plugins._checks import check_bool, check_positive
from alphacl_plugins.strategies.factored import Exponent, Factored, Factors, Totals


@dataclass(frozen=True)
class Direct(Factored):
    """Weight close pairs directly: a softmax over ``-d^p / τ``.

    ``α_j = exp(-d_j^p / τ) / Σ_k exp(-d_k^p / τ)``, with ``d_j = √D_j``; unnormalised ``α_j = exp(-d_j^p / τ)``.

    Args:
        tau: temperature τ, > 0, in the unit of ``d^p``.
        p: exponent of the distance d (not of D), > 0; the paper uses 4. At p = 2 the rows are those of `Entropy`.
        normalize: whether each row is divided by its sum; the paper found it slightly better.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``; normalised rows sum to 1.
    Raises: ValueError, TypeError if ``tau`` or ``p`` is not a finite number > 0.
    Source: Tian (2022), arXiv:2201.12680, Eq. 12.
    """

    has_loss: ClassVar[bool] = False

    tau: float = 0.5
    p: float = 4.0
    normalize: bool = True

    def __post_init__(self) -> None:
        check_positive("Direct.tau", self.tau)
        check_positive("Direct.p", self.p)
        check_bool("Direct.normalize", self.normalize)

    @property
    def tau_power(self) -> float:
        """``α(D; τ) = α(D / τ^(2/p); 1)``."""
        return 2 / self.p

    @property
    def exponent(self) -> Exponent:
        return Exponent(self.tau, self.p / 2)

    def log_weight(self, d2: Tensor) -> Tensor:
        floor, ceiling = self._safe_range(d2.dtype)
        log_weight = d2.clamp(floor, ceiling).pow(self.p / 2).div_(-self.tau)
        return log_weight.masked_fill(d2 < floor, 0.0) if self.p < 2 else log_weight

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        mass = torch.ones_like(d2_pos) if self.normalize else totals.log_weight.exp().expand_as(d2_pos)
        return Factors(mass, pos=mass)

    def _safe_range(self, dtype: torch.dtype) -> tuple[float, float]:
        """Where ``D^(p/2) / τ`` is finite and so is its slope, which for p < 2 is not finite at D = 0."""
        numbers = torch.finfo(dtype)
        log_largest = math.log(numbers.max / 2)
        log_ceiling = (log_largest + min(math.log(self.tau), 0.0)) * min(2 / self.p, 1.0)
        return numbers.tiny, math.exp(log_ceiling)


@dataclass(frozen=True)
class Uniform(Factored):
    """Weigh all candidates alike: ``α_j = 1 / K``, the loss that the paper calls quadratic.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 1.
    Source: Tian (2022), Table 1 (L_quadratic).
    """

    def log_weight(self, d2: Tensor) -> Tensor:
        return torch.zeros_like(d2)

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        mass = torch.ones_like(d2_pos)
        return Factors(mass, pos=mass)
