"""α as the min-player's answer: ``argmin_α Σ_j α_j D_j - Σ_j r(α_j)`` with ``α >= 0, Σ_j α_j = 1`` (Eq. 7-8, Sec. 6).

Stationarity (KKT) reads ``r'(α_j) = D_j - μ`` wherever ``α_j > 0``, so ``α_j = r'⁻¹(D_j - μ)`` and the multiplier μ is
the root of one increasing function. With distances measured from the closest candidate, ``δ_j = D_j - D_min``, the
unknown is ``x = D_min - μ``, and ``r'(1) <= x <= r'(1/K)``. The solvers run a fixed number of steps, without a host
sync. Their last two steps are part of autograd: at the root one Newton step has the first derivative of the implicit
function, two have the second one too.

By Danskin's theorem ``D_+ - min_α (Σ_j α_j D_j - Σ_j r(α_j))`` is a loss whose gradient is that of ``-E`` at the
optimal α: the value of Entropy and Square. (That of Inverse is known too, but it is a number of size τ K^γ whose
changes drown in rounding, so Inverse shows ``-E``.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from alphacl_plugins._checks import check_above, check_bool, check_callable, check_positive
from alphacl_plugins.strategies.base import Candidates, PairWeights, slope_of, split_excluded
from alphacl_plugins.strategies.factored import Exponent, Factored, Factors, Totals

_INVERSE_STEPS = {torch.float32: 6, torch.float64: 8}  # reach the dtype's precision for every γ, τ, K and row tried
_REGULARIZED_STEPS = 64
_DIFFERENTIABLE_STEPS = 2


@dataclass(frozen=True)
class Entropy(Factored):
    """Entropy regulariser: ``r_H(α) = -τ α log α``.

    ``α_j = exp(-D_j/τ) / Σ_k exp(-D_k/τ)``, InfoNCE at ε = 0; the loss is ``D_+ + τ log Σ_j exp(-D_j/τ)``, which is τ
    times the decoupled contrastive loss DCL.

    Args:
        tau: temperature τ, > 0, in the unit of D.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 1.
    Raises: ValueError, TypeError if ``tau`` is not a finite number > 0.
    Source: Tian (2022), Sec. 6 (r_H), Eq. 6; Yeh et al. (2021) for DCL.
    """

    tau_power: ClassVar[float] = 1.0
    has_loss: ClassVar[bool] = True

    tau: float = 0.5

    def __post_init__(self) -> None:
        check_positive("Entropy.tau", self.tau)

    @property
    def exponent(self) -> Exponent:
        return Exponent(self.tau)

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 / -self.tau

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        mass = torch.ones_like(d2_pos)
        return Factors(mass, pos=mass, value=d2_pos + self.tau * totals.log_weight)


@dataclass(frozen=True)
class Inverse:
    """Inverse regulariser: ``r_γ(α) = τ α^(1-γ) / (1-γ)``.

    Exact: ``α_j = (τ / (D_j - μ))^(1/γ)`` with μ < min D such that the row sums to 1; not exact:
    ``α_j = (D_j + τ)^(-γ)``, divided by the row sum.

    The two are different rules, not an answer and its approximation. With 254 candidates and the paper's τ and γ the
    exact rows are nearly uniform, as those of the quadratic loss; the row α-CL-r_γ of the paper's Table 1, which is
    close to InfoNCE's there, comes from ``exact=False``.

    Args:
        tau: strength τ of the regulariser, > 0; not exact: the distance τ, in the unit of D, that is added to D.
        gamma: exponent γ; > 1 where exact (the paper's range), else > 0.
        exact: whether to solve for μ.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 1.
    Raises: ValueError, TypeError if a parameter is outside its range.
    Source: Tian (2022), Sec. 6 (r_γ), Eq. 8a; exact=False: the rule behind Table 1.
    """

    linear_in_positive: ClassVar[bool] = True
    parameter_free: ClassVar[bool] = True
    tau_power: ClassVar[float] = 1.0

    tau: float = 0.5
    gamma: float = 2.0
    exact: bool = True

    def __post_init__(self) -> None:
        check_positive("Inverse.tau", self.tau)
        check_bool("Inverse.exact", self.exact)
        if self.exact:
            why = (
                "at 1, r_γ(α) = τ α^(1-γ) / (1-γ) is undefined, below 1 it is not the paper's; exact=False takes γ > 0"
            )
            check_above("Inverse.gamma", self.gamma, 1, why)
        else:
            check_positive("Inverse.gamma", self.gamma)

    @property
    def has_loss(self) -> bool:
        """Only the min-player's answer is the α of a loss."""
        return self.exact

    @property
    def factored(self) -> Factored | None:
        """In this form where it is not exact: exact rows need all candidates at once."""
        return None if self.exact else _ShiftedPower(self.tau, self.gamma)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        if self.factored is not None:
            return self.factored(d2_pos, d2_neg)
        return PairWeights(self._solve(d2_neg))

    def _solve(self, d2_neg: Tensor) -> Tensor:
        """Newton's method for ``y = (D_min - μ)/τ``, on ``F(y) = S(y)^(-γ) - 1`` with ``S = Σ_j (δ_j/τ + y)^(-1/γ)``.

        F is a power mean of negative exponent, hence concave and increasing; from a y below the root the steps approach
        it from below, and none can overshoot. Below lie y = 1, since the closest candidate alone gives S(1) >= 1, and
        K^γ less the mean of the δ_j/τ, by Jensen's inequality. Steps are taken in ``w = log(y)/γ``, which lies in
        [0, log K], so no γ and no K leaves the range of the dtype.
        """
        with torch.no_grad():
            shifts = _shifts(d2_neg.detach()) / self.tau
            w = self._root(shifts)
        if not torch.is_grad_enabled():
            return self._alpha(shifts, w)
        candidates = split_excluded(d2_neg)
        shifts = _above_closest(candidates) / self.tau
        for _ in range(_DIFFERENTIABLE_STEPS):
            alpha = candidates.keep(self._alpha(shifts, w))
            ratio = self._ratio(shifts, w)
            total, slope = (part.sum(dim=1, keepdim=True) for part in (alpha, alpha / ratio))
            w = w + (total - 1) / slope
        return candidates.keep(self._alpha(shifts, w))

    def _alpha(self, shifts: Tensor, w: Tensor) -> Tensor:
        return torch.exp(-w) * self._ratio(shifts, w).pow(-1 / self.gamma)

    def _ratio(self, shifts: Tensor, w: Tensor) -> Tensor:
        """``(δ/τ + y)/y``, which stays inf for an excluded candidate where 1/y underflows."""
        return (shifts * torch.exp(-self.gamma * w).clamp_min(torch.finfo(w.dtype).tiny)).add_(1)

    def _below_root(self, shifts: Tensor) -> Tensor:
        compared = (shifts < math.inf).to(shifts.dtype)
        number = compared.sum(dim=1, keepdim=True)
        log_number = number.log()
        part = (compared * shifts.clamp_max(torch.finfo(shifts.dtype).max)).sum(dim=1, keepdim=True) / number
        part = part * torch.exp(-self.gamma * log_number)  # of K^γ
        below = log_number + torch.log1p(-part.clamp_max(0.99)) / self.gamma
        return torch.where(part < 0.99, below, 0.0).clamp_min(0.0)

    def _root(self, shifts: Tensor) -> Tensor:
        w = self._below_root(shifts)
        for _ in range(_INVERSE_STEPS[shifts.dtype]):
            ratio = self._ratio(shifts, w)
            terms = ratio.pow(-1 / self.gamma)  # α = exp(-w) terms, and -dα/dw = α / ratio
            sums = terms.sum(dim=1, keepdim=True)
            g = self.gamma * (torch.log(sums) - w)
            newton = torch.exp(-g) - sums / terms.div_(ratio).sum(dim=1, keepdim=True) * torch.expm1(-g)
            w = w + (g + torch.log(newton)) / self.gamma
        return w


@dataclass(frozen=True)
class _ShiftedPower(Factored):
    """``α_j ∝ (D_j + τ)^(-γ)``."""

    tau: float
    gamma: float

    def log_weight(self, d2: Tensor) -> Tensor:
        return -self.gamma * torch.log(d2 + self.tau)

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        mass = torch.ones_like(d2_pos)
        return Factors(mass, pos=mass)


@dataclass(frozen=True)
class Square:
    """Square regulariser: ``r_s(α) = -τ α² / 2``.

    ``α_j = max(0, μ - D_j) / τ`` with μ such that the row sums to 1: far candidates get no weight at all.

    Args:
        tau: strength τ of the regulariser, > 0, in the unit of D; the smaller, the fewer candidates count.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 1.
    Raises: ValueError, TypeError if ``tau`` is not a finite number > 0.
    Source: Tian (2022), Sec. 6 (r_s), Eq. 8a. The published code's solver is one index off; this follows the KKT
        conditions.
    """

    linear_in_positive: ClassVar[bool] = True
    parameter_free: ClassVar[bool] = True
    tau_power: ClassVar[float] = 1.0
    has_loss: ClassVar[bool] = True

    tau: float = 5.0

    def __post_init__(self) -> None:
        check_positive("Square.tau", self.tau)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        shifts, closest = _shifts(d2_neg), d2_neg.detach().amin(dim=1)
        level = self._level(shifts.detach())
        chosen, near = (level - shifts.detach()).clamp_min_(0.0).sign_(), shifts.clamp_max(level)
        level = (self.tau + (near * chosen).sum(dim=1, keepdim=True)) / chosen.sum(dim=1, keepdim=True)
        weights = (level - shifts).clamp_min(0.0) / self.tau
        optimum = weights.detach()  # Danskin: α counts as a constant
        value = d2_pos - closest - (optimum * torch.add(near, optimum, alpha=self.tau / 2)).sum(dim=1)
        return PairWeights(weights, value=value)

    def _level(self, shifts: Tensor) -> Tensor:
        """The level μ, below which candidates have weight: the root of ``Σ_j max(0, μ - δ_j) = τ``.

        Newton's method from above: the sum is convex, so no step overshoots, and once the candidates below the level
        are the right ones the next step is exact.
        """
        level = torch.full_like(shifts[:, :1], self.tau)
        above = torch.empty_like(shifts)  # one for all steps: pages that were given back are slow to come again
        for _ in range(_newton_steps(shifts.shape[1], torch.finfo(shifts.dtype).eps)):
            above.copy_(shifts).sub_(level).clamp_max_(0.0)
            excess = -above.sum(dim=1, keepdim=True) - self.tau
            level = level + excess / above.sign_().sum(dim=1, keepdim=True)
        return level


@dataclass(frozen=True)
class Regularized:
    """The min-player of your own concave regulariser r, given by its derivative and the inverse of that.

    ``α_j = max(0, r'⁻¹(D_j - μ))`` with μ such that the row sums to 1, by safeguarded Newton on ``x = D_min - μ``.

    Args:
        derivative: ``r'``, decreasing, called with weights in (0, 1] (0-dim tensors or ``[M, 1]``).
        inverse_derivative: ``r'⁻¹``, tensor to tensor, element by element; called with ``D_j - μ >= r'(1)``. Where it
            is negative (r' finite at 0) the weight is 0.

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, rows sum to 1.
    Raises: TypeError if an argument cannot be called.
    Source: Tian (2022), Eq. 8a.

    >>> log_barrier = Regularized(derivative=lambda a: 0.5 / a, inverse_derivative=lambda v: 0.5 / v)
    >>> log_barrier(torch.zeros(1), torch.tensor([[0.0, 1.0]])).neg  # r(α) = 0.5 log α
    tensor([[0.7071, 0.2929]])
    """

    linear_in_positive: ClassVar[bool] = True

    derivative: Callable[[Tensor], Tensor]
    inverse_derivative: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_callable("Regularized.derivative", self.derivative)
        check_callable("Regularized.inverse_derivative", self.inverse_derivative)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        candidates = split_excluded(d2_neg)
        shifts = _above_closest(candidates)

        def excess(x: Tensor) -> Tensor:
            return self._weights(candidates, shifts, x).sum(dim=1, keepdim=True) - 1

        with torch.no_grad():
            low = self.derivative(torch.ones_like(candidates.number())).expand_as(candidates.number())
            high = self.derivative(1 / candidates.number())
            x = _safeguarded_newton(excess, low, high)
        for _ in range(_DIFFERENTIABLE_STEPS):
            x = x - excess(x) / slope_of(excess, x)
        return PairWeights(self._weights(candidates, shifts, x))

    def _weights(self, candidates: Candidates, shifts: Tensor, x: Tensor) -> Tensor:
        return candidates.keep(self.inverse_derivative(shifts + x).clamp_min(0.0))


def _newton_steps(n_candidates: int, eps: float) -> int:
    """How many steps bring `Square`'s level within ``eps τ`` of the root, whatever the row.

    A step that keeps a share r of the n candidates below the level moves it by at most ``1/r - 1`` times as far as the
    step before, as ``n' (μ' - μ'') = Σ_dropped (δ - μ') <= (n - n') (μ - μ')``. The shares of s steps multiply to
    1/K at least, and ``-log(1/r - 1)`` is convex in ``log 1/r``, so the s steps shrink the way by at least
    ``(K^(1/s) - 1)^s``.
    """
    log_number, steps = math.log(max(n_candidates, 2)), 2
    while math.expm1(log_number / steps) >= 1 or -steps * math.log(math.expm1(log_number / steps)) < -math.log(eps):
        steps += 1
    return steps + 2


def _shifts(d2_neg: Tensor) -> Tensor:
    """``δ_j = D_j - D_min``, +inf where excluded: faster than a mask, for uses whose gradient is 0 at inf."""
    return d2_neg - d2_neg.detach().amin(dim=1, keepdim=True)


def _above_closest(candidates: Candidates) -> Tensor:
    """``δ_j = D_j - D_min >= 0``, 0 where excluded; D_min counts as a constant, as rows depend on differences alone."""
    closest = candidates.d2.detach().masked_fill(candidates.excluded, math.inf).amin(dim=1, keepdim=True)
    return candidates.keep(candidates.d2 - closest)


def _safeguarded_newton(excess: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Root of a decreasing function in ``[low, high]``: Newton's step where it stays inside, else the midpoint."""
    x = low
    for _ in range(_REGULARIZED_STEPS):
        residual = excess(x)
        low, high = torch.where(residual >= 0, x, low), torch.where(residual <= 0, x, high)
        step = x - residual / slope_of(excess, x)
        x = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return x
