"""Strategies that look at the positives of the whole batch: the weighted decoupled loss, and MACL."""

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from alphacl_plugins.checks import check_at_most, check_non_negative, check_positive, check_temperature
from alphacl_plugins.strategies.separable import ExpPower, RowFactors, Separable, Softmax, Totals

T = TypeVar("T", bound="OfBatch")
_MOST = 30.0  # of a logarithm: 1e13 times a distance and its derivative are numbers of float32


class OfBatch(Separable):
    """Base of the strategies that need one number of each batch, a mean over the positives of all samples."""

    mean: Tensor | None = None  # no option: `on_batch` sets it

    @property
    def uses_batch(self) -> bool:  # type: ignore[override]  # until the mean is known
        return self.mean is None

    @abstractmethod
    def mean_of(self, d2_pos: Tensor, share: Tensor) -> Tensor:
        """Return the mean that is needed, 0-dim, or its logarithm, of positives with shares that sum to 1."""

    def on_batch(self: T, d2_pos: Tensor, weight: Tensor | None = None) -> T:
        """Return the strategy with the mean of a batch."""
        of_batch, d2_pos = copy.copy(self), d2_pos.detach()
        finite = d2_pos.isfinite()  # a row that is not must not spoil the others
        weight = finite.to(d2_pos.dtype) if weight is None else weight.detach()[:, None] * finite
        d2_pos = d2_pos.masked_fill(~finite, 0.0)
        total = weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)  # all may count 0
        object.__setattr__(of_batch, "mean", self.mean_of(d2_pos, weight / total))
        return of_batch


@dataclass(frozen=True)
class DCLWeighted(OfBatch, Softmax):
    """The decoupled loss with weighted positives (DCLW): those that are close already pull less.

    ``α_j = softmax(-D_j / τ)``, and the positive has weight ``2 - exp(c_+ / σ) / mean exp(c_+ / σ)``, held fixed, with
    ``c_+ = 1 - D_+``. The mean is over the positives of the batch, each a sample in two views. A weight can be below 0:
    with labels a positive may be far closer than those, and the quotient is then at most e^30.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        sigma: width σ of the weight, > 0.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows
        sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is not finite and > 0.

    Source:
        Yeh et al. (2022), arXiv:2110.06848, Eq. 6 and the von Mises-Fisher weight below it.
    """

    has_loss = True

    tau: float | Tensor = 0.1
    sigma: float = 0.5

    def __post_init__(self) -> None:
        check_temperature("DCLWeighted.tau", self.tau)
        check_positive("DCLWeighted.sigma", self.sigma)

    def mean_of(self, d2_pos: Tensor, share: Tensor) -> Tensor:
        return (share.log() - d2_pos / self.sigma).flatten().logsumexp(dim=0)

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        assert self.mean is not None  # as whoever asks has called on_batch
        pos = 2 - torch.exp((d2_pos / -self.sigma - self.mean).clamp_max(_MOST))
        value = pos.detach() * d2_pos + self.tau * totals.log_sum_exp
        return RowFactors(torch.ones_like(d2_pos), pos, value)


@dataclass(frozen=True)
class MACL(OfBatch):
    """Model-aware contrastive learning: the decoupled loss at a temperature that follows the alignment of the batch.

    ``α_j = softmax(-D_j / τ_a)``, ``τ_a = τ (1 + a (A - A_0))``, A the mean cosine ``1 - D_+`` of the positives of the
    batch, held fixed. The published loss is NT-Xent divided by ``1 - P_+``, held fixed, which takes the mass out of α;
    so it has no value of its own.

    Args:
        tau: base temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        alpha: how much τ_a follows the alignment, a in [0, 1].
        a_0: alignment A_0 in [0, 1] at which τ_a is τ. τ_a is never below τ / 100.

    Returns:
        Weights ``[M, K]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded); rows sum to 1.

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is outside its range.

    Source:
        Huang et al. (2023), ICML, arXiv:2207.07874, Eq. 5 and 9.
    """

    uses_positive = False
    uses_totals = False
    needs_distance = True  # of the positives

    tau: float | Tensor = 0.1
    alpha: float = 0.5
    a_0: float = 0.0

    def __post_init__(self) -> None:
        check_temperature("MACL.tau", self.tau)
        for name, of in (("alpha", "a share of τ"), ("a_0", "a cosine")):
            check_non_negative(f"MACL.{name}", getattr(self, name))
            check_at_most(f"MACL.{name}", getattr(self, name), 1, of)

    @property
    def adapted_tau(self) -> float | Tensor:
        """The temperature τ_a of the batch; τ before there is one."""
        return self.tau if self.mean is None else self.tau * (1 + self.alpha * (self.mean - self.a_0)).clamp_min(0.01)

    @property
    def usual_scale(self) -> float | Tensor:
        tau = self.adapted_tau
        return 1 / (tau.detach() if isinstance(tau, Tensor) else tau)

    @property
    def exponent(self) -> ExpPower:
        return ExpPower(self.adapted_tau)

    def mean_of(self, d2_pos: Tensor, share: Tensor) -> Tensor:
        return 1 - (share * d2_pos).sum()

    def log_weight(self, d2: Tensor) -> Tensor:
        return d2 / -self.adapted_tau
