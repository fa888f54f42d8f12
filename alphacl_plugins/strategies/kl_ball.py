"""A softmax whose temperature is set row by row, so that every row attends to the same share of its negatives."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_bounds, check_positive
from alphacl_plugins.strategies.base import PairWeights, Strategy, split_excluded
from alphacl_plugins.strategies.regularized import DIFFERENTIABLE_STEPS, above_closest

_NO_MASS = 1000.0  # D/τ from which a weight is 0, also in float64; its square overflows nothing
_HALVINGS = 32  # of the bounds, in log τ: from there the steps that autograd sees reach the precision of float64


@dataclass(frozen=True)
class KLBall(Strategy):
    """Worst-case weights within a ball around the uniform ones: ``KL(α ‖ 1/K) <= ρ``.

    ``α_j = softmax(-D_j / τ)`` with the row's own τ, at which ``KL(α ‖ 1/K) = ρ``. So the effective number of
    negatives, the exponential of α's entropy, is ``K e^(-ρ)`` in every row. Where no τ within ``bounds`` gives ρ, it is
    the nearest bound: the lower one where even the sharpest row is too even, such as one with equal distances.

    The loss is ``D_+ + min_τ (τ log mean_j exp(-D_j/τ) + τ ρ)``, which iSogCLR and TempNet estimate over a data set; in
    the batch it is solved exactly.

    Args:
        rho: radius ρ of the ball in nats, > 0. ``log K`` or more asks for the closest negative alone.
        bounds: least and largest τ, in the unit of D.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``rho`` is not finite and > 0, or the bounds are not 0 < least < largest.

    Source:
        Qiu et al. (2023), arXiv:2305.11965 (RGCL, iSogCLR), for the objective.
    """

    needs_distance = False

    uses_positive = False
    pure = True
    counts = True

    rho: float = 0.3
    bounds: tuple[float, float] = (0.05, 0.7)

    def __post_init__(self) -> None:
        check_positive("KLBall.rho", self.rho)
        object.__setattr__(self, "bounds", check_bounds("KLBall.bounds", self.bounds))  # a list, from a file

    def __call__(self, d2_pos: Tensor, d2_neg: Tensor, count: Tensor | None = None) -> PairWeights:
        negatives = split_excluded(d2_neg)
        times = negatives.zero_excluded(torch.ones_like(d2_neg) if count is None else count)
        shifts = above_closest(negatives)
        tau = self._tau(shifts, times)
        masses = times * torch.exp(-(shifts / tau).clamp_max(_NO_MASS))
        total = masses.sum(dim=1, keepdim=True)
        closest = d2_neg.detach().amin(dim=1)
        fixed = tau.detach()  # Danskin: τ counts as a constant
        mean = (times * torch.exp(-(shifts / fixed).clamp_max(_NO_MASS))).sum(dim=1) / times.sum(dim=1)
        value = d2_pos - closest + fixed[:, 0] * (mean.log() + self.rho)
        return PairWeights(masses / total, value=value)

    def _tau(self, shifts: Tensor, times: Tensor) -> Tensor:
        """The temperature of each row, ``[M, 1]``: KL falls with log τ, so halving the bounds finds it."""
        low, high = (math.log(bound) for bound in self.bounds)
        with torch.no_grad():
            below, above = (torch.full_like(shifts[:, :1], end) for end in (low, high))
            too_even, too_sharp = self._excess(shifts, times, below)[0] <= 0, self._excess(shifts, times, above)[0] >= 0
            outside, bound = too_even | too_sharp, torch.where(too_even, below, above)
            for _ in range(_HALVINGS):
                middle = (below + above) / 2
                sharp = self._excess(shifts, times, middle)[0] > 0
                below, above = torch.where(sharp, middle, below), torch.where(sharp, above, middle)
        log_tau = (below + above) / 2
        for _ in range(DIFFERENTIABLE_STEPS):
            excess, slope = self._excess(shifts, times, log_tau)
            step = excess / slope.masked_fill(outside | (slope == 0), 1.0)
            log_tau = log_tau + step
            log_tau = log_tau - (log_tau - torch.maximum(torch.minimum(log_tau, above), below)).detach()
        return torch.where(outside, bound, log_tau).exp()

    def _excess(self, shifts: Tensor, times: Tensor, log_tau: Tensor) -> tuple[Tensor, Tensor]:
        """``KL(α ‖ 1/K) - ρ`` at a temperature, and how fast it falls with log τ: the variance of D_j/τ under α."""
        scaled = (shifts * torch.exp(-log_tau)).clamp_max(_NO_MASS)
        masses = times * torch.exp(-scaled)
        total = masses.sum(dim=1, keepdim=True)
        mean = (masses * scaled).sum(dim=1, keepdim=True) / total
        slope = (masses * (scaled - mean).square()).sum(dim=1, keepdim=True) / total
        return -mean - (total / times.sum(dim=1, keepdim=True)).log() - self.rho, slope
