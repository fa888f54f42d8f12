"""The sigmoid loss: every pair by itself is one of two views of a sample, or not (SigLIP)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from alphacl_plugins.checks import check_finite, check_positive
from alphacl_plugins.strategies.separable import RowFactors, Separable, Totals


@dataclass(frozen=True)
class Sigmoid(Separable):
    """The sigmoid loss of SigLIP: ``softplus(-(t c_+ + b)) + Σ_j softplus(t c_j + b)`` with ``c = 1 - D``.

    ``α_j = t σ(t (1 - D_j) + b)``, and the positive has weight ``t σ(-(t (1 - D_+) + b))``. At b = 0 it is SimCLR's
    NT-Logistic. Both are fixed here; SigLIP learns them.

    Args:
        t: inverse temperature t, > 0.
        b: bias b, any finite number: minus the log of the number of negatives starts near balance.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if ``t`` is not finite and > 0, or ``b`` not finite.

    Source: Zhai et al. (2023), arXiv:2303.15343; Chen et al. (2020), arXiv:2002.05709, for NT-Logistic.
    """

    usual_scale = 1.0

    t: float = 10.0
    b: float = -10.0

    def __post_init__(self) -> None:
        check_positive("Sigmoid.t", self.t)
        check_finite("Sigmoid.b", self.b)

    def log_weight(self, d2: Tensor) -> Tensor:
        return math.log(self.t) + logsigmoid(self._logit(d2))

    def potential(self, d2: Tensor) -> Tensor:
        return softplus(self._logit(d2), threshold=50)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        row_sum = totals.log_sum_exp.exp().expand_as(d2_pos)
        logit = self._logit(d2_pos)
        return RowFactors(row_sum, self.t * torch.sigmoid(-logit), softplus(-logit, threshold=50) + totals.potential)

    def _logit(self, d2: Tensor) -> Tensor:
        return self.t * (1 - d2) + self.b
