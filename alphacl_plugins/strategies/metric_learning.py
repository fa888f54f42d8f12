"""Two losses of metric learning: multi-similarity and circle."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from alphacl_plugins.checks import check_finite, check_positive
from alphacl_plugins.strategies.hard_negatives import squared
from alphacl_plugins.strategies.separable import ExpPower, RowFactors, Separable, Totals


@dataclass(frozen=True)
class MultiSimilarity(Separable):
    """Multi-similarity: ``log(1 + exp(-a (c_+ - λ)))/a + log(1 + Σ_j exp(β (c_j - λ)))/β``, with ``c = 1 - D``.

    ``α_j = exp(β (c_j - λ)) / (1 + Σ_k exp(β (c_k - λ)))``, and the positive has weight ``σ(-a (c_+ - λ))``. Several
    positives count by their mean, one by one.

    Args:
        alpha: steepness a of the pull, > 0.
        beta: steepness β of the push, > 0: the softmax of the negatives has the temperature 1/β.
        base: cosine λ at which a pair is half attracted, any finite number.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``alpha`` or ``beta`` is not finite and > 0, or ``base`` not finite.

    Source:
        Wang et al. (2019), arXiv:1904.06627.
    """

    usual_scale = 1.0

    alpha: float = 2.0
    beta: float = 50.0
    base: float = 0.5

    def __post_init__(self) -> None:
        check_positive("MultiSimilarity.alpha", self.alpha)
        check_positive("MultiSimilarity.beta", self.beta)
        check_finite("MultiSimilarity.base", self.base)

    @property
    def exponent(self) -> ExpPower:
        return ExpPower(1 / self.beta)

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 * -self.beta

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        push = totals.log_sum_exp + self.beta * (1 - self.base)
        pull = self.alpha * (d2_pos - (1 - self.base))
        value = softplus(pull, threshold=50) / self.alpha + softplus(push, threshold=50) / self.beta
        return RowFactors(torch.sigmoid(push).expand_as(d2_pos), torch.sigmoid(pull), value)


@dataclass(frozen=True)
class Circle(Separable):
    """The circle loss: ``log(1 + Σ_j exp(l_j) exp(-l_+))``, whose factors ``γ [c + m]_+`` are held fixed.

    ``α_j = Z γ [c_j + m]_+ exp(l_j) / Σ_k exp(l_k)``, and the positive has weight ``Z γ [1 + m - c_+]_+``, with
    ``c = 1 - D``, ``l_j = γ [c_j + m]_+ (c_j - m)``, ``l_+ = γ [1 + m - c_+]_+ (c_+ - 1 + m)`` and
    ``Z = σ(log Σ_k exp(l_k) - l_+)``. Several positives count by their mean, one by one.

    Args:
        m: margin m, > 0.
        gamma: scale γ, > 0.

    Returns:
        Weights ``[M, K]`` and ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is not finite and > 0.

    Source:
        Sun et al. (2020), arXiv:2002.10857.
    """

    usual_scale = 1.0

    m: float = 0.4
    gamma: float = 80.0

    def __post_init__(self) -> None:
        check_positive("Circle.m", self.m)
        check_positive("Circle.gamma", self.gamma)

    def log_weight(self, d2: Tensor) -> Tensor:
        return self.log_mass(d2) + self._factor(d2).clamp_min(torch.finfo(d2.dtype).tiny).log()

    def log_mass(self, d2: Tensor) -> Tensor:
        return self._factor(d2) * (1 - self.m - d2.clamp_max(1 + self.m))

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        logit = self.gamma * self.m**2 - squared(math.sqrt(self.gamma) * d2_pos)
        mass = torch.sigmoid(totals.log_mass - logit)
        row_sum = mass * torch.exp(totals.log_sum_exp - totals.log_mass)
        return RowFactors(row_sum, mass * self.gamma * (d2_pos + self.m))

    def _factor(self, d2: Tensor) -> Tensor:
        """``γ [c + m]_+``."""
        return self.gamma * (1 + self.m - d2).clamp_min(0.0)
