"""A temperature that is found from the data: the one with a given share of effective negatives."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.checks import check_finite
from alphacl_plugins.strategies.base import PairWeights
from alphacl_plugins.strategies.learnable_temperature import LearnableTemperature, has_temperature

BOUNDS = (1e-4, 1e4)  # of τ; distances of unit vectors are at most 2
_HALVINGS = 30
_CLOSE = 0.01  # to the share that was asked for, of it


class Calibrated(LearnableTemperature):
    """A strategy whose temperature is found on the first training batch, and kept: comparing at equal sharpness.

    τ is such that the effective negatives (the exponential of the mean entropy of α, as in the loss's ``last_stats``)
    are a share of the negatives of an anchor. They rise with τ, so τ is found by bisection, over the batches of all
    ranks. The first batch is the first with gradients enabled in training mode; evaluated earlier, the loss finds a τ
    for each batch and forgets it. Masked negatives are negatives, too: with a mask the share is of all of them.

    Args:
        strategy: a dataclass with a field ``tau``, which is ignored.
        effective_share: effective negatives over negatives, in (0, 1).

    Attributes:
        log_tau: logarithm of τ, ``[1]``, float32, a buffer; NaN until it is found.

    Raises:
        TypeError: if the strategy has no temperature or the share is no number.
        ValueError: if the share is outside its range; in the first batch, if no τ has it.

    Examples:
        >>> from alphacl_plugins import AlphaCLLoss
        >>> loss = AlphaCLLoss("direct", effective_share=0.25)
        >>> z, z_aug = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0))
        >>> _ = loss(z, z_aug)
        >>> round(loss.last_stats["effective_negatives"].item() / 126, 3)
        0.25
    """

    def __init__(self, strategy: Any, effective_share: float) -> None:
        check_finite("effective_share", effective_share)
        if not 0 < effective_share < 1:
            raise ValueError(f"effective_share: expected a number in (0, 1), got {effective_share!r}")
        if has_temperature(strategy):
            strategy = dataclasses.replace(strategy, tau=1.0)
        super().__init__(strategy, learnable=False, bounds=BOUNDS)
        self.effective_share = float(effective_share)
        self.log_tau.fill_(math.nan)
        self._found = False  # of log_tau, without asking a device
        self._passing: Tensor | None = None  # τ of the latest batch, before it is found

    @property
    def is_calibrated(self) -> bool:
        """Whether τ has been found, or loaded."""
        if not self._found:
            self._found = not bool(self.log_tau.isnan().any())
        return self._found

    def find(self, share_at: Callable[[dict[str, Tensor]], Tensor], *, strict: bool) -> Tensor:
        """Return τ, 0-dim, from a function that tells the share of effective negatives at other options.

        Where no τ has the share, the nearest one is returned, or if ``strict`` an error raised.
        """
        low, high = (self.log_tau.new_tensor(math.log(bound)) for bound in self.bounds)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            sharp = share_at({"tau": middle.exp()}) < self.effective_share
            low, high = torch.where(sharp, middle, low), torch.where(sharp, high, middle)
        tau: Tensor = high.exp()
        self._passing = tau
        if not strict:
            return tau
        reached = float(share_at({"tau": tau}))
        if not abs(reached - self.effective_share) <= _CLOSE * self.effective_share:
            raise ValueError(
                f"effective_share: expected a share that {type(self.strategy).__name__} can have on this batch, got "
                f"{self.effective_share!r}; at τ = {float(tau):.4g} it is {reached:.4g}"
            )
        return tau

    @property
    def in_force(self) -> dict[str, Tensor]:
        """τ, once it is found; until then that of the latest batch, NaN before any."""
        return super().in_force if self.is_calibrated or self._passing is None else {"tau": self._passing}

    def forward(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        """Weigh each anchor's negatives at the τ that was found."""
        self.check_found()
        return super().forward(d2_pos, d2_neg)

    def check_found(self) -> None:
        """Raise unless τ has been found."""
        if not self.is_calibrated:
            raise ValueError(
                "effective_share: expected a strategy that a loss has seen a training batch with, got one without a τ"
            )

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._found, self._passing = False, None

    def extra_repr(self) -> str:
        """Show every option."""
        return f"{super().extra_repr()}, effective_share={self.effective_share}"
