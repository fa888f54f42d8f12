"""Square regulariser: a row's far negatives get no weight at all."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_temperature
from alphacl_plugins.strategies.base import PairWeights, Strategy
from alphacl_plugins.strategies.regularized import number_of_closest, shifts_of
from alphacl_plugins.traced import is_traced

_COUNT_BITS = 40  # counts of one row differ, together, by at most this power of two


@dataclass(frozen=True)
class Square(Strategy):
    """Square regulariser: ``r_s(α) = -τ α² / 2``.

    ``α_j = max(0, μ - D_j) / τ`` with μ such that the row sums to 1: far negatives get no weight at all.

    Args:
        tau: strength τ of the regulariser, > 0, in the unit of D; the smaller, the fewer negatives count. A number or a
            0-dim tensor.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if ``tau`` is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0.

    Source:
        Tian (2022), Sec. 6 (r_s), Eq. 8a. The published code's solver is one index off; this follows the KKT
        conditions.
    """

    needs_distance = False

    uses_positive = False
    has_loss = True
    pure = True
    counts = True

    tau: float | Tensor = 5.0

    def __post_init__(self) -> None:
        check_temperature("Square.tau", self.tau)

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        shifts, closest = shifts_of(d2_neg), d2_neg.detach().amin(dim=1)
        with torch.no_grad():
            fixed = shifts.detach()
            level = self._level(fixed) if count is None else self._counted_level(fixed, d2_neg, count)
        chosen, near = (level - shifts.detach()).clamp_min_(0.0).sign_(), shifts.clamp_max(level)
        chosen = chosen if count is None else chosen * count
        level = (self.tau + (near * chosen).sum(dim=1, keepdim=True)) / chosen.sum(dim=1, keepdim=True)
        weights = (level - shifts).clamp_min(0.0) / self.tau
        optimum = weights.detach()  # Danskin: α counts as a constant
        weights = weights if count is None else weights * count
        value = d2_pos - closest - (weights.detach() * (near + optimum * (self.tau / 2))).sum(dim=1)
        return PairWeights(weights, value=value)

    def _counted_level(self, shifts: Tensor, d2_neg: Tensor, count: Tensor) -> Tensor:
        """The level, where each negative counts as often as ``count`` says."""
        level, number = self.tau / number_of_closest(d2_neg, count), None
        for _ in range(_newton_steps(2**_COUNT_BITS, torch.finfo(shifts.dtype).eps)):
            below = (shifts < level) * count
            before, number = number, below.sum(dim=1, keepdim=True)
            if _settled(number, before):
                break
            excess = (below * (level - shifts.clamp_max(level))).sum(dim=1, keepdim=True) - self.tau
            level = level - excess / number
        return level

    def _level(self, shifts: Tensor) -> Tensor:
        """The level μ, below which negatives have weight: the root of ``Σ_j max(0, μ - δ_j) = τ``.

        Newton's method from above: the sum is convex, so no step overshoots, and once the negatives below the level
        are the right ones the next step is exact.
        """
        level = torch.zeros_like(shifts[:, :1]) + self.tau
        above, number = shifts - level, None  # one buffer for all steps: allocating it anew in each is slow
        for _ in range(_newton_steps(shifts.shape[1], torch.finfo(shifts.dtype).eps)):
            excess = -above.clamp_max_(0.0).sum(dim=1, keepdim=True) - self.tau
            before, number = number, above.sign_().sum(dim=1, keepdim=True)
            if _settled(number, before):
                break
            level = level + excess / number
            above.copy_(shifts).sub_(level)
        return level


def _settled(number: Tensor, before: Tensor | None) -> bool:
    """Whether no row's number of negatives below the level has changed: the last step was then exact.

    Elsewhere than on a CPU, and where the values cannot be read, the steps are as many as the worst row needs.
    """
    if before is None or number.device.type != "cpu" or is_traced(number):
        return False
    return torch.equal(number, before)


def _newton_steps(n_columns: int, eps: float) -> int:
    """How many steps bring `Square`'s level within ``eps τ`` of the root, whatever the row.

    A step that keeps a share r of the n negatives below the level moves it by at most ``1/r - 1`` times as far as the
    step before, as ``n' (μ' - μ'') = Σ_dropped (δ - μ') <= (n - n') (μ - μ')``. The shares of s steps multiply to
    1/K at least, and ``-log(1/r - 1)`` is convex in ``log 1/r``, so the s steps shrink the way by at least
    ``(K^(1/s) - 1)^s``. K counts as the next power of two, so that torch.compile makes few graphs.
    """
    number, steps = 2, 2
    while number < n_columns:
        number *= 2
    log_number = math.log(number)
    while math.expm1(log_number / steps) >= 1 or -steps * math.log(math.expm1(log_number / steps)) < -math.log(eps):
        steps += 1
    return steps + 2
