"""RINCE: InfoNCE that trusts noisy positives less."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.checks import check_positive, check_temperature
from alphacl_plugins.strategies.separable import RowFactors, Softmax, Totals


@dataclass(frozen=True)
class RINCE(Softmax):
    """Robust InfoNCE: ``τ/q ((λ Z)^q - exp(-q D_+/τ))`` with ``Z = exp(-D_+/τ) + Σ_k exp(-D_k/τ)``.

    ``α_j = λ^q Z^(q-1) exp(-D_j/τ)``, and the positive has weight ``exp(-q D_+/τ) - λ^q Z^(q-1) exp(-D_+/τ)``: a far
    positive, a noisy view, pulls less. q → 0 is InfoNCE. This is ``τ exp(-q/τ)`` times the published loss, so that no
    temperature overflows; ``scale="ntxent"`` gives the published loss.

    Args:
        tau: temperature τ, > 0, in the unit of D; a number or a 0-dim tensor.
        q: robustness q, > 0 and <= 1.
        lam: weight λ of the negatives, > 0 and <= 1.

    Returns:
        Weights ``[M, K]``, ``[M]`` and value ``[M]`` for ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded).

    Raises:
        TypeError: if an option is of the wrong type.
        ValueError: if an option is outside its range.

    Source:
        Chuang et al. (2022), arXiv:2201.04309.
    """

    has_loss = True

    tau: float | Tensor = 0.5
    q: float = 0.5
    lam: float = 0.01

    def __post_init__(self) -> None:
        check_temperature("RINCE.tau", self.tau)
        for name in ("q", "lam"):
            check_positive(f"RINCE.{name}", getattr(self, name))
            if getattr(self, name) > 1:
                raise ValueError(f"RINCE.{name}: expected a number > 0 and <= 1, got {getattr(self, name)!r}")

    @property
    def usual_scale(self) -> Any:
        """``exp(q/τ)/τ``."""
        rate = super().usual_scale
        if isinstance(rate, Tensor):
            return rate * (self.q * rate).exp()
        return rate * math.exp(self.q * rate) if self.q * rate < 700 else math.inf

    def factors(self, d2_pos: Tensor, totals: Totals) -> RowFactors:
        log_pos = d2_pos / -self.tau
        log_z = torch.logaddexp(log_pos, totals.log_sum_exp.expand_as(log_pos))
        log_lam = self.q * math.log(self.lam)
        row_sum = torch.exp(log_lam + (self.q - 1) * log_z + totals.log_sum_exp)
        trust = torch.exp(self.q * log_pos)
        pos = trust * -torch.expm1(log_lam + (1 - self.q) * (log_pos - log_z))
        value = self.tau / self.q * (torch.exp(log_lam + self.q * log_z) - trust)
        return RowFactors(row_sum, pos, value)
