"""The losses of the second paper (ICML 2024) as α-strategies: DHEL and kernel contrastive learning, KCL."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.checks import check_bool, check_choice, check_positive, check_temperature
from alphacl_plugins.strategies.separable import RowFactors, Separable, Softmax, Totals


@dataclass(frozen=True)
class DHEL(Softmax):
    """Decoupled hyperspherical energy loss: the energy of each view by itself, decoupled from the alignment.

    ``α_j = exp(-D_j/τ) / Σ_k exp(-D_k/τ)`` over the anchor's own view, with weight ½ for the positive, since it is
    counted once while both views spread out; weight 1 where only the first view does (``include_augs=False``). The
    loss is ``pos * D_+ + τ log Σ_j exp(-D_j/τ)``: τ/2 (τ) times the published one, up to a constant.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        include_augs: whether the second view gives anchors too.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``tau`` is not finite and > 0.

    Source:
        Koromilas et al. (2024), arXiv:2405.18045.
    """

    negatives = "same"
    uses_positive = False
    has_loss = True

    tau: float | Tensor = 0.3
    include_augs: bool = True

    def __post_init__(self) -> None:
        check_temperature("DHEL.tau", self.tau)
        check_bool("DHEL.include_augs", self.include_augs)

    @property
    def symmetric(self) -> bool:  # type: ignore[override]  # depends on an option
        """Both views give anchors if the second is included."""
        return self.include_augs

    @property
    def usual_scale(self) -> Any:
        """2/τ, 1/τ without ``include_augs``."""
        return (2 if self.include_augs else 1) * super().usual_scale

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        pos = torch.full_like(d2_pos, 0.5 if self.include_augs else 1.0)
        value = pos * d2_pos + self.tau * totals.log_sum_exp
        return RowFactors(torch.ones_like(d2_pos), pos, value)


class Kernel(NamedTuple):
    """A decreasing kernel k of the half squared distance D, and ``log(-k'(D))``; ``r² = 2D``."""

    value: Callable[[Tensor, float], Tensor]
    log_slope: Callable[[Tensor, float], Tensor]


_RIESZ_FLOOR = 1e-6
_RIESZ_LARGEST_T = 8

_GAUSSIAN = Kernel(
    lambda d2, t: torch.exp(-2 * t * d2),
    lambda d2, t: math.log(2 * t) - 2 * t * d2,
)
_LOG = Kernel(
    lambda d2, t: -torch.log1p(2 * t * d2),
    lambda d2, t: math.log(2 * t) - torch.log1p(2 * t * d2),
)
_INVERSE_MULTIQUADRIC = Kernel(
    lambda d2, t: t * (t**2 + 2 * d2).rsqrt(),
    lambda d2, t: math.log(t) - 1.5 * torch.log(t**2 + 2 * d2),
)


def _riesz_log_slope(d2: Tensor, t: float) -> Tensor:
    return math.log(t) - (t / 2 + 1) * torch.log(2 * d2.clamp_min(_RIESZ_FLOOR))


def _riesz_value(d2: Tensor, t: float) -> Tensor:
    """``r^(-t)``, and its tangent below the floor, so that value and weight belong together there too."""
    floored = d2.clamp_min(_RIESZ_FLOOR)
    return (2 * floored).pow(-t / 2) - _riesz_log_slope(d2, t).exp() * (d2 - floored)


_RIESZ = Kernel(_riesz_value, _riesz_log_slope)


class _Pairing(NamedTuple):
    """Which kernel pulls the positive, which one spreads the negatives, and how strongly the latter counts."""

    positive: Kernel
    negatives: Kernel
    factor: float = 1.0
    positive_t: float | None = None


_PAIRINGS = {
    "gaussian": _Pairing(_GAUSSIAN, _GAUSSIAN),
    # The published energy term of the log kernel carries a factor ½ that its alignment term does not.
    "log": _Pairing(_LOG, _LOG, factor=0.5),
    "imq": _Pairing(_INVERSE_MULTIQUADRIC, _INVERSE_MULTIQUADRIC),
    "riesz": _Pairing(_RIESZ, _RIESZ),
    "gaussian_riesz": _Pairing(_GAUSSIAN, _RIESZ, positive_t=2.0),
}


@dataclass(frozen=True)
class KCL(Separable):
    """Kernel contrastive learning: ``-2 k(D_+) + 2γ mean_j k(D_j)`` for a kernel k of the distance ``r = √(2D)``.

    ``α_j = -2γ k'(D_j) / K``, with weight ``-2 k'(D_+)`` for the positive: no softmax, so the expected loss does not
    depend on the batch size.

    Kernels: gaussian ``exp(-t r²)``; log ``-log(1 + t r²)``, halved for the negatives; imq ``t / √(t² + r²)``; riesz
    ``r^(-t)``; gaussian_riesz: riesz for the negatives, gaussian with t = 2 for the positive. Riesz distances D are
    floored at 1e-6 in the weights.

    Args:
        kernel: gaussian, log, imq, riesz or gaussian_riesz.
        t: scale or exponent of the kernel, > 0; at most 8 with a riesz kernel, whose r^(-t) overflows beyond.
        gamma: weight γ of the negatives against the positive, > 0.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``kernel`` is unknown, or ``t`` or ``gamma`` is not finite and > 0.

    Source:
        Koromilas et al. (2024), arXiv:2405.18045.
    """

    negatives = "same"

    kernel: str = "gaussian"
    t: float = 2.0
    gamma: float = 16.0

    def __post_init__(self) -> None:
        check_choice("KCL.kernel", self.kernel, tuple(_PAIRINGS))
        check_positive("KCL.t", self.t)
        if "riesz" in self.kernel and self.t > _RIESZ_LARGEST_T:
            limit = f"a number <= {_RIESZ_LARGEST_T} with a riesz kernel (beyond, r^(-t) of close pairs leaves float32)"
            raise ValueError(f"KCL.t: expected {limit}, got {self.t!r}")
        check_positive("KCL.gamma", self.gamma)

    def log_weight(self, d2: Tensor) -> Tensor:
        return self._pairing.negatives.log_slope(d2, self.t)

    def potential(self, d2: Tensor) -> Tensor:
        return self._pairing.negatives.value(d2, self.t)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        pull, _, factor, positive_t = self._pairing
        positive_t = self.t if positive_t is None else positive_t
        strength = 2 * self.gamma * factor / totals.number
        row_sum = (strength * totals.log_sum_exp.exp()).expand_as(d2_pos)
        pos = 2 * pull.log_slope(d2_pos, positive_t).exp()
        return RowFactors(row_sum, pos, strength * totals.potential - 2 * pull.value(d2_pos, positive_t))

    @property
    def _pairing(self) -> _Pairing:
        return _PAIRINGS[self.kernel]
