"""Losses whose logit is another function of the distance than -D/τ: `Link` for your own, and `StudentT`."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from alphacl_plugins.checks import check_callable, check_positive
from alphacl_plugins.strategies.base import on_copies, slope_of
from alphacl_plugins.strategies.separable import RowFactors, Separable, Totals


class LinkedLoss(Separable):
    """``L = -log(exp s(D_+) / (exp s(D_+) + Σ_k exp s(D_k)))``, with ``s`` decreasing.

    ``α_j = -s'(D_j) p_j``, and the positive has weight ``-s'(D_+) (1 - p_+)``, p the softmax of s with the positive.
    """

    usual_scale = 1.0

    @abstractmethod
    def _logit(self, d2: Tensor) -> Tensor:
        """Return ``s(D)``, element by element, in a new tensor."""

    @abstractmethod
    def _log_slope(self, d2: Tensor) -> Tensor:
        """Return ``log(-s'(D))``, finite."""

    def log_weight(self, d2: Tensor) -> Tensor:
        return self._log_slope(d2) + self._logit(d2)

    def log_mass(self, d2: Tensor) -> Tensor:
        return self._logit(d2)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        logit = self._logit(d2_pos)
        log_odds = totals.log_mass - logit  # of the negatives against the positive
        row_sum = torch.exp(totals.log_sum_exp - totals.log_mass) * torch.sigmoid(log_odds)
        pos = torch.exp(self._log_slope(d2_pos)) * torch.sigmoid(log_odds)
        return RowFactors(row_sum, pos, softplus(log_odds, threshold=50) + 0 * d2_pos)


@dataclass(frozen=True)
class Link(LinkedLoss):
    """The cross entropy of your own logit s(D); its derivative, and so α, comes from autograd.

    ``L = -log(exp s(D_+) / (exp s(D_+) + Σ_k exp s(D_k)))``, ``α_j = -s'(D_j) p_j``; the positive has weight
    ``-s'(D_+) (1 - p_+)``, p the softmax of s with the positive. ``s(D) = -D/τ`` is InfoNCE over τ.

    Args:
        logit: s, decreasing and differentiable for D >= 0, tensor to tensor, element by element; it may work in place.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if ``logit`` cannot be called.

    Source:
        such logits: Tan et al. (2024), arXiv:2303.15103; Kim & Kim (2025), arXiv:2501.17683.

    Examples:
        >>> cauchy = Link(lambda d2: -torch.log1p(2 * d2))
        >>> cauchy(torch.zeros(1), torch.zeros(1, 1)).neg
        tensor([[1.]])
    """

    logit: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        check_callable("Link.logit", self.logit)

    def _logit(self, d2: Tensor) -> Tensor:
        return on_copies(self.logit)(d2)

    def _log_slope(self, d2: Tensor) -> Tensor:
        return torch.log((-slope_of(on_copies(self.logit), d2)).clamp_min(torch.finfo(d2.dtype).tiny))


@dataclass(frozen=True)
class StudentT(LinkedLoss):
    """A Student t kernel in place of the exponential: ``s(D) = -(ν+1)/2 log(1 + 2 t D/ν)``.

    ``α_j = -s'(D_j) p_j``, and the positive has weight ``-s'(D_+) (1 - p_+)``, p the softmax of s with the positive:
    far pairs are held by long tails. At ν = 1 the kernel is Cauchy's, ``1/(1 + t r²)`` with ``r² = 2D``, the loss of
    t-SimCNE, for embeddings that are not normalised.

    Args:
        nu: degrees of freedom ν, > 0.
        t: scale of the squared distance, > 0.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is not finite and > 0.

    Source:
        Böhm et al. (2023), t-SimCNE, arXiv:2210.09879; Hu et al. (2023), t-SimCLR, arXiv:2205.14814.
    """

    nu: float = 1.0
    t: float = 1.0

    def __post_init__(self) -> None:
        check_positive("StudentT.nu", self.nu)
        check_positive("StudentT.t", self.t)

    def _logit(self, d2: Tensor) -> Tensor:
        return torch.log1p(d2 * (2 * self.t / self.nu)) * (-(self.nu + 1) / 2)

    def _log_slope(self, d2: Tensor) -> Tensor:
        rate = 2 * self.t / self.nu
        return math.log(rate * (self.nu + 1) / 2) - torch.log1p(d2 * rate)
