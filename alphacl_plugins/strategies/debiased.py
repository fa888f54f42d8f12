"""Debiased: negatives of which a share are false, hard ones counting more or not (Chuang, Robinson)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from alphacl_plugins.checks import check_bool, check_non_negative, check_temperature
from alphacl_plugins.strategies.base import PairWeights, split_excluded
from alphacl_plugins.strategies.hard_negatives import log_number
from alphacl_plugins.strategies.separable import ExpPower, RowFactors, Separable, Totals

_FURTHEST = 2.0  # D of two unit vectors that are opposite


@dataclass(frozen=True)
class Debiased(Separable):
    """The debiased contrastive loss, with β > 0 the loss with hard negatives, HCL: ``τ log(1 + G)``.

    ``G = max((ξ - K τ⁺)/(1 - τ⁺), K exp((D_+ - 2)/τ))``, ``ξ = K Σ_k exp((D_+ - (1+β) D_k)/τ) / Σ_k exp(-β D_k/τ)``.
    Where G is the first term, ``α_j = m q_j`` with ``m = ξ / ((1 - τ⁺)(1 + G))`` and ``q = softmax(-(1+β) D/τ)``; else
    α_j = 0, and the positive has weight ``G/(1 + G)``. At β = 0 and above the floor it is InfoNCE with
    ``ε = 1 - τ⁺ (K + 1)``. As published the gradient passes through the weights ``exp(-β D_k/τ)``: then
    ``α_j = m ((1+β) q_j - β softmax(-β D/τ)_j)``, which is negative for far negatives.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        tau_plus: share τ⁺ of the negatives that are of the anchor's class, >= 0 and < 1.
        beta: hardness β, >= 0; 0 for the debiased loss alone.
        detach: whether the weights are held fixed; False for the loss as published, whose α is signed if β > 0 and
            needs all negatives of an anchor at once.

    Returns:
        Weights ``[M, K]`` and ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); value ``[M]`` unless
        weights are held fixed.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if a number is outside its range.

    Source:
        Chuang et al. (2020), arXiv:2007.00224; Robinson et al. (2021), arXiv:2010.04592.
    """

    pure = True

    tau: float | Tensor = 0.5
    tau_plus: float = 0.1
    beta: float = 0.0
    detach: bool = True

    def __post_init__(self) -> None:
        check_temperature("Debiased.tau", self.tau)
        check_non_negative("Debiased.tau_plus", self.tau_plus)
        if self.tau_plus >= 1:
            raise ValueError(f"Debiased.tau_plus: expected a number >= 0 and < 1, got {self.tau_plus!r}")
        check_non_negative("Debiased.beta", self.beta)
        check_bool("Debiased.detach", self.detach)

    @property
    def separable(self) -> bool:  # type: ignore[override]  # depends on an option
        return self.detach or self.beta == 0

    @property
    def exponent(self) -> ExpPower | None:
        return ExpPower(self.tau) if self.beta == 0 else None

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 * -(1 + self.beta) / self.tau

    def log_mass(self, d2: Tensor) -> Tensor | None:
        return None if self.beta == 0 else d2 * -self.beta / self.tau

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        log_k = log_number(totals, d2_pos)
        log_xi = d2_pos / self.tau + totals.log_sum_exp
        log_xi = log_xi if self.beta == 0 else log_xi + (log_k - totals.log_mass)
        log_g, log_floor, log_true = log_xi, (d2_pos - _FURTHEST) / self.tau + log_k, torch.zeros_like(log_xi)
        is_open = torch.ones_like(log_xi, dtype=torch.bool)
        if self.tau_plus > 0:
            log_false = math.log(self.tau_plus) + log_k - log_xi  # the share of ξ that is of false negatives
            is_open = log_false < 0
            log_true = torch.log(-torch.expm1(torch.where(is_open, log_false, -1.0)))
            log_g = log_xi + log_true - math.log1p(-self.tau_plus)
        is_open = is_open & (log_g > log_floor)
        log_g = torch.where(is_open | log_g.isnan(), log_g, log_floor)  # hides no NaN
        pos = torch.exp(logsigmoid(log_g) - torch.where(is_open, log_true, 0.0))
        value = self.tau * softplus(log_g, threshold=50) if self.beta == 0 or not self.detach else None
        return RowFactors(torch.where(is_open, pos, 0.0), pos, value)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        neg, pos, value = super().__call__(d2_pos, d2_neg, count)
        if self.separable:
            return PairWeights(neg, pos, value)
        negatives = split_excluded(d2_neg, count)
        weights = self._of_copies(negatives.d2 * -self.beta / self.tau, negatives)
        row_sum = neg.sum(dim=1, keepdim=True)
        return PairWeights((1 + self.beta) * neg - self.beta * row_sum * torch.softmax(weights, dim=1), pos, value)
