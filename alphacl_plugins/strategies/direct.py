"""α set directly, with no inner optimisation: Direct (Eq. 12) and Uniform."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alphacl_plugins.checks import check_bool, check_positive, check_temperature
from alphacl_plugins.strategies.separable import ExpPower, RowFactors, Separable, Totals


@dataclass(frozen=True)
class Direct(Separable):
    """Weight close pairs directly: a softmax over ``-d^p / τ``.

    ``α_j = exp(-d_j^p / τ) / Σ_k exp(-d_k^p / τ)``, with ``d_j = √D_j``; unnormalised ``α_j = exp(-d_j^p / τ)``.

    Args:
        tau: temperature τ, > 0, in the unit of ``d^p``; a number or a 0-dim tensor.
        p: exponent of the distance d (not of D), > 0; the paper uses 4. At p = 2 the rows are those of `Entropy`.
        normalize: whether each row is divided by its sum; the paper found it slightly better.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); normalised rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` or ``p`` is not finite and > 0.

    Source:
        Tian (2022), arXiv:2201.12680, Eq. 12.
    """

    uses_positive = False

    tau: float | Tensor = 0.5
    p: float = 4.0
    normalize: bool = True

    def __post_init__(self) -> None:
        check_temperature("Direct.tau", self.tau)
        check_positive("Direct.p", self.p)
        check_bool("Direct.normalize", self.normalize)

    @property
    def uses_totals(self) -> bool:  # type: ignore[override]  # depends on an option
        return not self.normalize

    @property
    def exponent(self) -> ExpPower:
        return ExpPower(self.tau, self.p / 2)

    def log_weight(self, d2: Tensor) -> Tensor:
        floor, ceiling = self._safe_range(d2.dtype)
        power = d2.clamp(floor, ceiling).pow(self.p / 2)  # type: ignore[arg-type]  # two numbers or two tensors
        # In place where it can be: torch.func forbids it with a τ that it differentiates.
        log_weight = power / -self.tau if isinstance(self.tau, Tensor) else power.div_(-self.tau)
        return log_weight.masked_fill(d2 < floor, 0.0) if self.p < 2 else log_weight

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        row_sum = torch.ones_like(d2_pos) if self.normalize else totals.log_sum_exp.exp().expand_as(d2_pos)
        return RowFactors(row_sum, pos=row_sum)

    def _safe_range(self, dtype: torch.dtype) -> tuple[float | Tensor, float | Tensor]:
        """Where ``D^(p/2) / τ`` is finite and so is its slope, which for p < 2 is not finite at D = 0."""
        numbers, power = torch.finfo(dtype), min(2 / self.p, 1.0)
        log_largest = math.log(numbers.max / 2)
        if isinstance(self.tau, Tensor):
            log_tau = self.tau.detach().to(dtype).log()
            return log_tau.new_full((), numbers.tiny), ((log_largest + log_tau.clamp_max(0.0)) * power).exp()
        return numbers.tiny, math.exp((log_largest + min(math.log(self.tau), 0.0)) * power)


@dataclass(frozen=True)
class Uniform(Separable):
    """Weigh all negatives alike: ``α_j = 1 / K``, the loss that the paper calls quadratic.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Source:
        Tian (2022), Table 1 (L_quadratic).
    """

    needs_distance = False

    uses_positive = False
    uses_totals = False

    def log_weight(self, d2: Tensor) -> Tensor:
        return torch.zeros_like(d2)
