"""Softmax types with a mass of their own: hardness weighting, dual temperature and ADNCE.

All three hold parts of the published loss fixed (stop-gradient). So no function has the gradient of ``-E``, and they
have no value of their own.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.checks import check_finite, check_non_negative, check_positive, check_temperature
from alphacl_plugins.strategies.separable import ExpPower, RowFactors, Separable, Totals


@dataclass(frozen=True)
class Hardness(Separable):
    """Hardness weighting: a negative counts more by ``exp(a c_j)``, c the cosine, held fixed.

    ``α_j = m q_j``, ``q = softmax(-(1/τ + a) D)``, ``m = ξ / (1 + ξ)`` with ``log ξ = D_+/τ + a + log Σ_k
    exp(-(1/τ + a) D_k)``: InfoNCE at the temperature τ / (1 + a τ), but for the mass m. At a = 0 it is InfoNCE.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        a: hardness a, >= 0.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to m.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0 or ``a`` not finite and >= 0.

    Source:
        Lan et al. (2025), LLaVE, arXiv:2503.04812, Eq. 5; sentence-transformers.
    """

    tau: float | Tensor = 0.5
    a: float = 9.0

    def __post_init__(self) -> None:
        check_temperature("Hardness.tau", self.tau)
        check_non_negative("Hardness.a", self.a)

    @property
    def exponent(self) -> ExpPower:
        return ExpPower(self.tau / (1 + self.a * self.tau))

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 * -(1 / self.tau + self.a)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        mass = torch.sigmoid(d2_pos / self.tau + totals.log_sum_exp + self.a)
        return RowFactors(mass, pos=mass)


@dataclass(frozen=True)
class DualTemperature(Separable):
    """Dual temperature: the shape of InfoNCE at τ_α, and its mass at τ_β.

    ``α_j = m q_j``, ``q = softmax(-D/τ_α)``, ``m = ξ / (1 + ξ)`` with ``ξ = Σ_k exp((D_+ - D_k)/τ_β)``. At τ_β = τ_α it
    is InfoNCE.

    Args:
        tau_alpha: temperature τ_α of the shape, > 0, in the unit of D.
        tau_beta: temperature τ_β of the mass, > 0; the warmer, the less anchors differ.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to m.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is not finite and > 0.

    Source:
        Zhang et al. (2022), Dual Temperature, arXiv:2203.17248.
    """

    needs_distance = False

    tau_alpha: float = 0.1
    tau_beta: float = 1.0

    def __post_init__(self) -> None:
        check_positive("DualTemperature.tau_alpha", self.tau_alpha)
        check_positive("DualTemperature.tau_beta", self.tau_beta)

    @property
    def usual_scale(self) -> Any:
        """1/τ_α."""
        return 1 / self.tau_alpha

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 / -self.tau_alpha

    def log_mass(self, d2: Tensor) -> Tensor:
        return d2 / -self.tau_beta

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        mass = torch.sigmoid(d2_pos / self.tau_beta + totals.log_mass)
        return RowFactors(mass, pos=mass)


@dataclass(frozen=True)
class ADNCE(Separable):
    """Adjusted InfoNCE: a negative counts more the nearer its cosine c is to μ, held fixed.

    ``α_j = m q_j``, ``q_j ∝ g_j exp(-D_j/τ)`` with ``g_j = exp(-(1 - D_j - μ)² / (2σ²))``, and ``m = ξ / (1 + ξ)`` with
    ``ξ = K Σ_k g_k exp((D_+ - D_k)/τ) / Σ_k g_k``. The shape q is a Gaussian in D around ``1 - μ - σ²/τ``; around 0
    with σ = ½ it is that of ``Direct(tau=0.5, p=4)``.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        mu: centre μ, any finite number.
        sigma: width σ, > 0.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to m.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` or ``sigma`` is not finite and > 0, or ``mu`` not finite.

    Source:
        Wu et al. (2023), arXiv:2310.11048.
    """

    tau: float | Tensor = 0.4
    mu: float = 0.7
    sigma: float = 0.5

    def __post_init__(self) -> None:
        check_temperature("ADNCE.tau", self.tau)
        check_finite("ADNCE.mu", self.mu)
        check_positive("ADNCE.sigma", self.sigma)

    def log_weight(self, d2: Tensor) -> Tensor:
        return self.log_mass(d2) - d2 / self.tau

    def log_mass(self, d2: Tensor) -> Tensor:
        return -squared((d2 - (1 - self.mu)) / (self.sigma * math.sqrt(2)))

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        log_mean = totals.log_mass - log_number(totals, d2_pos)
        mass = torch.sigmoid(d2_pos / self.tau + totals.log_sum_exp - log_mean)
        return RowFactors(mass, pos=mass)


def squared(x: Tensor) -> Tensor:
    """``x²``, at most an eighth of the dtype's largest number: finite for every finite x."""
    largest = math.sqrt(torch.finfo(x.dtype).max / 8)
    return x.clamp(-largest, largest).square()


def log_number(totals: Totals, like: Tensor) -> Tensor:
    """``log K``."""
    number = totals.number
    return number.log() if isinstance(number, Tensor) else like.new_full((), number).log()
