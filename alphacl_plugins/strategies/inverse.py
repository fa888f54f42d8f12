"""Inverse powers of the distance: `Inverse`, the rule of the paper's Table 1, and `InverseExact`, the minimiser of r_γ.

They are two rules, not an answer and its approximation: see `InverseExact`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_above, check_positive, check_temperature
from alphacl_plugins.strategies.base import PairWeights, Strategy, split_excluded
from alphacl_plugins.strategies.regularized import DIFFERENTIABLE_STEPS, above_closest, number_of_closest, shifts_of
from alphacl_plugins.strategies.separable import Separable
from alphacl_plugins.traced import is_traced

_STEPS = {torch.float32: 6, torch.float64: 8}  # reach the dtype's precision for every γ, τ, K and row tried


@dataclass(frozen=True)
class Inverse(Separable):
    """Inverse power of the distance, set directly: the rule behind the row α-CL-r_γ of the paper's Table 1.

    ``α_j = (D_j + τ)^(-γ) / Σ_k (D_k + τ)^(-γ)``.

    Args:
        tau: distance τ that is added to D, > 0, in the unit of D; a number or a 0-dim tensor.
        gamma: exponent γ, > 0.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is not finite and > 0.

    Source:
        the published code of Tian (2022), arXiv:2201.12680, Table 1.
    """

    uses_positive = False
    uses_totals = False

    tau: float | Tensor = 0.5
    gamma: float = 2.0

    def __post_init__(self) -> None:
        check_temperature("Inverse.tau", self.tau)
        check_positive("Inverse.gamma", self.gamma)

    def log_weight(self, d2: Tensor) -> Tensor:
        return -self.gamma * torch.log(d2 + self.tau)


@dataclass(frozen=True)
class InverseExact(Strategy):
    """Inverse regulariser: the minimiser for ``r_γ(α) = τ α^(1-γ) / (1-γ)``.

    ``α_j = (τ / (D_j - μ))^(1/γ)`` with μ < min D such that the row sums to 1.

    With 254 negatives and the paper's τ and γ the rows are nearly uniform and learn like the quadratic loss. The row
    α-CL-r_γ of the paper's Table 1 is close to InfoNCE, so it is `Inverse`.

    The regulariser's loss is known, but it is a number of size τ K^γ whose changes drown in rounding. So the value
    shown is ``-E``.

    Args:
        tau: strength τ of the regulariser, > 0, in the unit of D; a number or a 0-dim tensor.
        gamma: exponent γ, > 1, the paper's range.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0 or ``gamma`` not finite and > 1.

    Source:
        Tian (2022), Sec. 6 (r_γ), Eq. 8a.
    """

    needs_distance = False

    uses_positive = False
    has_loss = True
    pure = True
    counts = True

    tau: float | Tensor = 0.5
    gamma: float = 2.0

    def __post_init__(self) -> None:
        check_temperature("InverseExact.tau", self.tau)
        why = "at 1, r_γ(α) = τ α^(1-γ) / (1-γ) is undefined, below 1 it is not the paper's; Inverse takes γ > 0"
        check_above("InverseExact.gamma", self.gamma, 1, why)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        return PairWeights(self._solve(d2_neg, count))

    def _solve(self, d2_neg: Tensor, count: Tensor | None) -> Tensor:
        """Newton's method for ``y = (D_min - μ)/τ``, on ``F(y) = S(y)^(-γ) - 1`` with ``S = Σ_j (δ_j/τ + y)^(-1/γ)``.

        F is a power mean of negative exponent, hence concave and increasing; from a y below the root the steps approach
        it from below, and none can overshoot. Below lie y = 1, since the closest negative alone gives S(1) >= 1, and
        K^γ less the mean of the δ_j/τ, by Jensen's inequality. Steps are taken in ``w = log(y)/γ``, which lies in
        [0, log K], so no γ and no K leaves the range of the dtype.
        """
        with torch.no_grad():
            shifts = shifts_of(d2_neg.detach()) / self.tau
            w = self._root(shifts, count)
        if not torch.is_grad_enabled() or not _tracked(d2_neg, self.tau):
            return self._alpha(shifts, w, count)
        negatives = split_excluded(d2_neg)
        shifts = above_closest(negatives) / self.tau
        for _ in range(DIFFERENTIABLE_STEPS):
            alpha = negatives.zero_excluded(self._alpha(shifts, w, count))
            ratio = self._ratio(shifts, w)
            total, slope = (part.sum(dim=1, keepdim=True) for part in (alpha, alpha / ratio))
            w = w + (total - 1) / slope
        return negatives.zero_excluded(self._alpha(shifts, w, count))

    def _alpha(self, shifts: Tensor, w: Tensor, count: Tensor | None) -> Tensor:
        alpha = torch.exp(-w) * self._ratio(shifts, w).pow(-1 / self.gamma)
        return alpha if count is None else alpha * count

    def _ratio(self, shifts: Tensor, w: Tensor) -> Tensor:
        """``(δ/τ + y)/y``, which stays inf for an excluded negative where 1/y underflows."""
        return (shifts * torch.exp(-self.gamma * w).clamp_min(torch.finfo(w.dtype).tiny)).add_(1)

    def _below_root(self, shifts: Tensor, count: Tensor | None) -> Tensor:
        compared = (shifts < math.inf).to(shifts.dtype)
        compared = compared if count is None else torch.where(shifts < math.inf, count, 0.0)
        number = compared.sum(dim=1, keepdim=True)
        log_number = number.log()
        part = (compared * shifts.clamp_max(torch.finfo(shifts.dtype).max)).sum(dim=1, keepdim=True) / number
        part = part * torch.exp(-self.gamma * log_number)  # of K^γ
        below = log_number + torch.log1p(-part.clamp_max(0.99)) / self.gamma
        of_closest = 0.0 if count is None else number_of_closest(shifts, count).log()
        return torch.maximum(torch.where(part < 0.99, below, of_closest), below.new_zeros(()) + of_closest)

    def _root(self, shifts: Tensor, count: Tensor | None) -> Tensor:
        w = self._below_root(shifts, count)
        for _ in range(_STEPS[shifts.dtype]):
            ratio = self._ratio(shifts, w)
            terms = ratio.pow(-1 / self.gamma)  # α = exp(-w) terms, and -dα/dw = α / ratio
            terms = terms if count is None else terms * count
            sums = terms.sum(dim=1, keepdim=True)
            g = self.gamma * (torch.log(sums) - w)
            newton = torch.exp(-g) - sums / terms.div_(ratio).sum(dim=1, keepdim=True) * torch.expm1(-g)
            w = w + (g + torch.log(newton)) / self.gamma
        return w


def _tracked(d2: Tensor, tau: float | Tensor) -> bool:
    """Whether a derivative may be asked for: autograd knows by the tensors, compiled code and torch.func do not say."""
    return is_traced(d2) or d2.requires_grad or (isinstance(tau, Tensor) and tau.requires_grad)
