"""α as the min-player's answer: ``argmin_α Σ_j α_j D_j - Σ_j r(α_j)`` with ``α >= 0, Σ_j α_j = 1`` (Eq. 7-8, Sec. 6).

Stationarity (KKT) reads ``r'(α_j) = D_j - μ`` wherever ``α_j > 0``, so ``α_j = r'⁻¹(D_j - μ)`` and the multiplier μ is
the root of one increasing function. With distances measured from the closest negative, ``δ_j = D_j - D_min``, the
unknown is ``x = D_min - μ``, and ``r'(1) <= x <= r'(1/K)``. The solvers, here and in `inverse` and `square`, run a
fixed number of steps without a host sync; on a CPU `square` stops as soon as it is exact. The last steps are part of
autograd: at the root one Newton step has the first derivative of the implicit function, two have the second one too.

By Danskin's theorem ``D_+ - min_α (Σ_j α_j D_j - Σ_j r(α_j))`` is a loss whose gradient is that of ``-E`` at the
optimal α: the value of Entropy and Square.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_callable, check_temperature
from alphacl_plugins.strategies.base import Negatives, PairWeights, Strategy, on_copies, slope_of, split_excluded
from alphacl_plugins.strategies.separable import RowFactors, Softmax, Totals

_NEWTON_STEPS = 64
DIFFERENTIABLE_STEPS = 2


@dataclass(frozen=True)
class Entropy(Softmax):
    """Entropy regulariser: ``r_H(α) = -τ α log α``.

    ``α_j = exp(-D_j/τ) / Σ_k exp(-D_k/τ)``, InfoNCE at ε = 0; the loss is ``D_+ + τ log Σ_j exp(-D_j/τ)``, which is τ
    times the decoupled contrastive loss DCL.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if ``tau`` is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0.

    Source:
        Tian (2022), Sec. 6 (r_H), Eq. 6; Yeh et al. (2021) for DCL.
    """

    needs_distance = False

    uses_positive = False
    has_loss = True

    tau: float | Tensor = 0.5

    def __post_init__(self) -> None:
        check_temperature("Entropy.tau", self.tau)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        row_sum = torch.ones_like(d2_pos)
        return RowFactors(row_sum, pos=row_sum, value=d2_pos + self.tau * totals.log_sum_exp)


@dataclass(frozen=True)
class Regularized(Strategy):
    """The min-player's answer for your own concave regulariser r, given by its derivative and the inverse of that.

    ``α_j = max(0, r'⁻¹(D_j - μ))`` with μ such that the row sums to 1, by safeguarded Newton on ``x = D_min - μ``.

    Args:
        derivative: ``r'``, decreasing, tensor to tensor, element by element; called with weights in (0, 1].
        inverse_derivative: ``r'⁻¹``, tensor to tensor, element by element; called with ``D_j - μ >= r'(1)``. Where it
            is negative (r' finite at 0) the weight is 0. Both functions may work in place.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an argument cannot be called.

    Source:
        Tian (2022), Eq. 8a.

    Examples:
        >>> log_barrier = Regularized(derivative=lambda a: 0.5 / a, inverse_derivative=lambda v: 0.5 / v)
        >>> log_barrier(torch.zeros(1), torch.tensor([[0.0, 1.0]])).neg  # r(α) = 0.5 log α
        tensor([[0.7071, 0.2929]])
    """

    needs_distance = False

    uses_positive = False
    pure = True
    counts = True

    derivative: Callable[[Tensor], Tensor]
    inverse_derivative: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_callable("Regularized.derivative", self.derivative)
        check_callable("Regularized.inverse_derivative", self.inverse_derivative)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        negatives = split_excluded(d2_neg, count)
        shifts = above_closest(negatives)

        def excess(x: Tensor) -> Tensor:
            return self._weights(negatives, shifts, x).sum(dim=1, keepdim=True) - 1

        with torch.no_grad():
            number, derivative = negatives.number(), on_copies(self.derivative)
            closest = torch.ones_like(number) if count is None else number_of_closest(d2_neg, count)
            low, high = derivative(1 / closest), derivative(1 / number)
            x = _safeguarded_newton(excess, low, high)
        for _ in range(DIFFERENTIABLE_STEPS):
            x = x - excess(x) / slope_of(excess, x)
        return PairWeights(self._weights(negatives, shifts, x))

    def _weights(self, negatives: Negatives, shifts: Tensor, x: Tensor) -> Tensor:
        weights = negatives.zero_excluded(on_copies(self.inverse_derivative)(shifts + x).clamp_min(0.0))
        return weights if negatives.times is None else weights * negatives.times


def shifts_of(d2_neg: Tensor) -> Tensor:
    """``δ_j = D_j - D_min``, +inf where excluded: faster than a mask, for uses whose gradient is 0 at inf."""
    return d2_neg - d2_neg.detach().amin(dim=1, keepdim=True)


def number_of_closest(d2_neg: Tensor, count: Tensor) -> Tensor:
    """How often the closest negative counts, with others that are as close, ``[M, 1]``."""
    closest = d2_neg == d2_neg.amin(dim=1, keepdim=True)
    return torch.where(closest & (d2_neg < math.inf), count, 0.0).sum(dim=1, keepdim=True).detach()


def above_closest(negatives: Negatives) -> Tensor:
    """``δ_j = D_j - D_min >= 0``, 0 where excluded; D_min counts as a constant, as rows depend on differences alone."""
    closest = negatives.d2.detach().masked_fill(negatives.excluded, math.inf).amin(dim=1, keepdim=True)
    return negatives.zero_excluded(negatives.d2 - closest)


def _safeguarded_newton(excess: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Root of a decreasing function in ``[low, high]``: Newton's step where it stays inside, else the midpoint."""
    x = low
    for _ in range(_NEWTON_STEPS):
        residual = excess(x)
        low, high = torch.where(residual >= 0, x, low), torch.where(residual <= 0, x, high)
        step = x - residual / slope_of(excess, x)
        x = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return x
