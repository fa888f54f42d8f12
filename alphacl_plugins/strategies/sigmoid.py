"""The sigmoid loss: every pair by itself is one of two views of a sample, or not (SigLIP)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from alphacl_plugins.checks import check_bounds, check_finite, check_temperature, is_scalar
from alphacl_plugins.strategies.learnable import Bounded, Learnable
from alphacl_plugins.strategies.separable import RowFactors, Separable, Totals


@dataclass(frozen=True)
class Sigmoid(Separable):
    """The sigmoid loss of SigLIP: ``softplus(-(t c_+ + b)) + Σ_j softplus(t c_j + b)`` with ``c = 1 - D``.

    ``α_j = t σ(t (1 - D_j) + b)``, and the positive has weight ``t σ(-(t (1 - D_+) + b))``. At b = 0 it is SimCLR's
    NT-Logistic. Both are fixed here; `LearnableSigmoid` learns them, as SigLIP does.

    Args:
        t: inverse temperature t, > 0; a number or a 0-dim tensor.
        b: bias b, any finite number or a 0-dim tensor: minus the log of the number of negatives starts near balance.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``t`` is not finite and > 0, or ``b`` not finite.

    Source:
        Zhai et al. (2023), arXiv:2303.15343; Chen et al. (2020), arXiv:2002.05709, for NT-Logistic.
    """

    usual_scale = 1.0

    t: float | Tensor = 10.0
    b: float | Tensor = -10.0

    def __post_init__(self) -> None:
        check_temperature("Sigmoid.t", self.t)
        if not is_scalar(self.b):
            check_finite("Sigmoid.b", self.b)

    def log_weight(self, d2: Tensor) -> Tensor:
        log_t = self.t.log() if isinstance(self.t, Tensor) else math.log(self.t)
        return log_t + logsigmoid(self._logit(d2))

    def potential(self, d2: Tensor) -> Tensor:
        return softplus(self._logit(d2), threshold=50)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        row_sum = totals.log_sum_exp.exp().expand_as(d2_pos)
        logit = self._logit(d2_pos)
        return RowFactors(row_sum, self.t * torch.sigmoid(-logit), softplus(-logit, threshold=50) + totals.potential)

    def _logit(self, d2: Tensor) -> Tensor:
        return self.t * (1 - d2) + self.b


class LearnableSigmoid(Learnable):
    """The sigmoid loss whose inverse temperature and bias are parameters, as in SigLIP.

    α follows them, and no gradient passes through α. Their gradients are those of the loss L of an anchor:

    ``∂L/∂b = (Σ_j α_j - α_+) / t``, ``∂L/∂ log t = Σ_j α_j - α_+ - E``, ``E = Σ_j α_j D_j - α_+ D_+``.

    The parameters belong to the loss: give ``criterion.parameters()`` to the optimiser, without weight decay.

    Args:
        strategy: the loss with the values at which t and b start.
        bounds: least and largest t. At a bound, a gradient of the whole batch that leads out is 0.

    Attributes:
        log_t: logarithm of t, ``[1]``, float32 whatever dtype the module is cast to.
        bias: b, likewise.

    Raises:
        TypeError: if the strategy is another one.
        ValueError: if t starts outside the bounds.

    Source:
        Zhai et al. (2023), arXiv:2303.15343, Algorithm 1.

    Examples:
        >>> LearnableSigmoid(Sigmoid(b=-8.0)).in_force["b"]
        tensor(-8.)
    """

    def __init__(self, strategy: Sigmoid, *, bounds: Sequence[float] = (0.01, 1000.0)) -> None:
        if not isinstance(strategy, Sigmoid):
            raise TypeError(f"strategy: expected a Sigmoid, got {strategy!r}")
        low, high = check_bounds("bounds", bounds)
        t = float(strategy.t)
        if not low <= t <= high:
            raise ValueError(f"bounds: expected (least, largest) around t = {t!r}, got ({low!r}, {high!r})")
        super().__init__(strategy, learnable=True)
        self.bounds = low, high
        self.log_t = nn.Parameter(torch.full((1,), math.log(t), dtype=torch.float32))
        self.bias = nn.Parameter(torch.full((1,), float(strategy.b), dtype=torch.float32))

    def _options(self) -> dict[str, Tensor]:
        return {"t": self.log_t[0].exp().clamp(*self.bounds), "b": self.bias[0]}

    def _slopes(self, energy: Tensor, excess: Tensor) -> list[tuple[Tensor, Tensor]]:
        low, high = (math.log(bound) for bound in self.bounds)
        log_t: Tensor = Bounded.apply(self.log_t, low, high)[0]
        return [(log_t, excess - energy), (self.bias[0], excess / self.in_force["t"])]

    def extra_repr(self) -> str:
        """Show every option."""
        return f"t={float(self.in_force['t']):.4g}, b={float(self.in_force['b']):.4g}, bounds={self.bounds}"
