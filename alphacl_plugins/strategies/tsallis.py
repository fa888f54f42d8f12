"""The Tsallis regularisers: one path of α from inverse powers through the softmax to sparse rows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_at_most, check_temperature
from alphacl_plugins.strategies.base import PairWeights, Strategy, split_excluded
from alphacl_plugins.strategies.regularized import DIFFERENTIABLE_STEPS, above_closest, number_of_closest

_LEAST_WITH_VALUE = 0.5
_COUNT_BITS = 40  # all counts of a row, together, are at most this power of two times those of the closest negative


@dataclass(frozen=True)
class Tsallis(Strategy):
    """Tsallis regulariser: ``r(α) = -τ (α^a - α) / (a (a-1))``, α log α times -τ at index a = 1.

    ``α_j = [(a-1) (μ - D_j) / τ]_+^(1/(a-1))`` with μ such that the row sums to 1. Index 1 is `Entropy`, index 2
    `Square`, 1.5 the 1.5-entmax between them: above 1 far negatives get no weight at all. Index 1-γ at temperature γτ
    is ``InverseExact(τ, γ)``, whose weights fall as a power of the distance.

    The loss is ``D_+ - min_α (Σ_j α_j D_j - Σ_j r(α_j))``, for ``index >= 0.5``. Further down it is a number of size
    τ K^(1-a) / a, infinite at 0, whose changes drown in rounding, so the value shown there is ``-E``.

    Args:
        index: the index a, <= 2. (Above 2 the weights would be infinitely steep where they reach 0.)
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``index`` is not finite and <= 2 or ``tau`` not finite and > 0.

    Source:
        Tian (2022), Eq. 8a, for r; Peters et al. (2019), arXiv:1905.05702, for entmax.
    """

    needs_distance = False

    uses_positive = False
    has_loss = True
    pure = True
    counts = True

    index: float = 1.5
    tau: float | Tensor = 0.5

    def __post_init__(self) -> None:
        check_at_most("Tsallis.index", self.index, 2, "above, weights are infinitely steep where they reach 0")
        check_temperature("Tsallis.tau", self.tau)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        negatives = split_excluded(d2_neg)
        times = negatives.zero_excluded(torch.ones_like(d2_neg) if count is None else count)
        shifts = above_closest(negatives)
        with torch.no_grad():
            first = times.new_zeros(()) if count is None else number_of_closest(d2_neg, times).log()
            largest = 2**_COUNT_BITS if count is not None else d2_neg.shape[1]
            w = self._solve(shifts.detach() / self.tau, times, first, largest)
        for _ in range(DIFFERENTIABLE_STEPS):
            total, slope = self._sums(shifts / self.tau, times, w)
            w = w + (total - 1) / slope
        log_alpha, times = self._log_alpha(shifts / self.tau, times, w)
        alpha = log_alpha.exp()
        value = None
        if self.index >= _LEAST_WITH_VALUE:
            optimum = alpha.detach() * times  # Danskin: α counts as a constant
            regulariser = _unbent(self.index - 1, log_alpha.detach()) * self.tau / self.index
            closest = d2_neg.detach().amin(dim=1)
            value = d2_pos - closest - (optimum * (shifts + regulariser)).sum(dim=1)
        return PairWeights(alpha * times, value=value)

    def _solve(self, shifts: Tensor, times: Tensor, first: Tensor, largest: int) -> Tensor:
        """Newton's method for ``w = -log α`` of the closest negative, on ``S(y)^b - 1``: S the row's sum, y = e^(-bw).

        With b = a-1, ``S(y)^b`` is the 1/b-norm of ``[y - b δ_j/τ]_+``: convex in y for 0 < b <= 1, concave for b < 0
        (a power mean of negative exponent). So from a w below the root, where S >= 1, the steps approach it from below,
        and none can overshoot. Below lie the w at which the closest negatives alone sum to 1 and, by Jensen's
        inequality, the one of ``y = K^(-b) + b mean_j δ_j/τ``.
        """
        b, log_number = self.index - 1, times.sum(dim=1, keepdim=True).log()
        mean = (times * shifts).sum(dim=1, keepdim=True) * torch.exp((b - 1) * log_number)  # times K^b
        by_mean = log_number - _bent(b, mean)
        w = torch.where(b * mean > -0.99, torch.maximum(by_mean, first), first)  # nearer to -1 it is all rounding
        for _ in range(_newton_steps(largest, abs(b), torch.finfo(w.dtype).eps)):
            total, slope = self._sums(shifts, times, w)
            excess = total.log()
            w = w + excess - _bent(b, (1 - total / slope) * _unbent(b, excess))
        return w

    def _log_alpha(self, shifts: Tensor, times: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """``log α_j``, for a closest negative of weight ``e^-w``, and how often each counts: not where α is 0."""
        b, (eps, tiny) = self.index - 1, (getattr(torch.finfo(w.dtype), name) for name in ("eps", "tiny"))
        scaled = -shifts * torch.exp(b * w).clamp_min(tiny)
        if b > 0:  # the logarithm stays finite, as infinities are slow
            times, scaled = times * (scaled > -1 / b), scaled.clamp_min((eps - 1) / b)
        return _bent(b, scaled) - w, times

    def _sums(self, shifts: Tensor, times: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """``S = Σ_j α_j`` and ``-dS/dw = Σ_j α_j (α_j e^w)^-b``."""
        b, (log_alpha, times) = self.index - 1, self._log_alpha(shifts, times, w)
        slopes = torch.exp((1 - b) * log_alpha - b * w)
        return (times * log_alpha.exp()).sum(dim=1, keepdim=True), (times * slopes).sum(dim=1, keepdim=True)


def _bent(b: float, x: Tensor) -> Tensor:
    """``log(1 + b x) / b``, x itself at b = 0: the logarithm of Tsallis's exponential."""
    return x if abs(b) < 1e-18 else torch.log1p(b * x) / b


def _unbent(b: float, x: Tensor) -> Tensor:
    """``(e^(b x) - 1) / b``, the inverse."""
    return x if abs(b) < 1e-18 else torch.expm1(b * x) / b


def _newton_steps(n_columns: int, b: float, eps: float) -> int:
    """How many steps bring a row's sum within eps of 1, whatever the row.

    For a convex F one step of Newton's method gives ``F'/F + F''/F' <= 1``, the ratios of values and slopes after and
    before it. The slopes here stay in ``[1, K^b]`` (or [K^-b, 1]), so those of s steps multiply to ``K^-b`` at least,
    and s steps shrink F, at most ``K^b - 1`` before, by at least ``(1 - K^(-b/s))^s``. K counts as the next power of
    two, so that torch.compile makes few graphs.
    """
    number = 2
    while number < n_columns:
        number *= 2
    log_number = math.log(number)
    steps, first = 1, math.expm1(b * log_number) / b if b else log_number
    while first * (-math.expm1(-b * log_number / steps)) ** steps > eps:
        steps += 1
    return steps + 1
