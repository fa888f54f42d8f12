"""A temperature τ that learns, or follows a schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphacl_plugins.checks import check_bool, check_bounds, check_positive
from alphacl_plugins.strategies.learnable import Bounded, Learnable


class LearnableTemperature(Learnable):
    """A strategy whose temperature τ is a parameter, ``log_tau``, or a buffer that a schedule sets.

    α follows τ without a host sync, and no gradient passes through α. τ learns from the loss ``L/τ``, the loss in its
    usual scale (for InfoNCE: NT-Xent), whose derivative is the energy:

    ``∂(L/τ) / ∂ log τ = E_i / τ``, ``E_i = Σ_j α_ij D_ij - α_i+ D_i+``,

    by Theorem 1 and, for the regularised strategies, Danskin's theorem. So τ falls while the weighted negatives are
    further away than the positive, and rises where they are closer. Once every positive is closer than every negative,
    only the lower bound stops τ, though the weights of InfoNCE, and so the steps, are small by then. (L itself would
    not do: for InfoNCE ``∂L/∂τ`` is an entropy, never negative, so τ could only fall.)

    The parameter belongs to the loss: give ``criterion.parameters()`` to the optimiser, without weight decay. Under
    DDP the loss has to be inside the wrapped module (Lightning: an attribute of the LightningModule).

    Args:
        strategy: a dataclass with a field ``tau``, such as InfoNCE, Entropy, InverseExact, Square, DHEL, SoftTriplet,
            Direct or Inverse. Its tau is where τ starts.
        learnable: True: τ learns, which needs a strategy with a loss of its own; Direct and Inverse set α directly and
            have none. False: τ stays as it is, or as ``strategy.tau = 0.2`` sets it, at any time.
        bounds: least and largest τ. At a bound, a gradient of the whole batch that leads out is 0.

    Attributes:
        strategy: the strategy as it was given.
        log_tau: logarithm of τ, ``[1]`` (FSDP takes no 0-dim parameters). It stays float32 whatever dtype the module is
            cast to: in bfloat16 the steps of an optimiser would be lost.

    Raises:
        TypeError: if the strategy has no temperature or an argument is of the wrong type.
        ValueError: if the strategy has no loss to learn from, or a number is outside its range.

    Source:
        Theorem 1 of Tian (2022), arXiv:2201.12680; a learnable τ: Radford et al. (2021), CLIP.

    Examples:
        >>> from alphacl_plugins.strategies import InfoNCE
        >>> strategy = LearnableTemperature(InfoNCE(tau=0.1))
        >>> strategy.tau *= 2
        >>> strategy.tau
        tensor(0.2000)
    """

    log_tau: Tensor

    def __init__(self, strategy: Any, *, learnable: bool = True, bounds: Sequence[float] = (0.01, 100.0)) -> None:
        if not has_temperature(strategy):
            raise TypeError(f"strategy: expected one with a temperature, a field tau as InfoNCE has, got {strategy!r}")
        check_bool("learnable", learnable)
        if learnable:
            check_can_learn("learnable", strategy)
        low, high = check_bounds("bounds", bounds)
        tau = float(strategy.tau)
        if not low <= tau <= high:
            raise ValueError(
                f"bounds: expected (least, largest) around the strategy's tau {tau!r}, got ({low!r}, {high!r}); "
                "others go to LearnableTemperature(strategy, bounds=...)"
            )
        super().__init__(strategy, learnable)
        self.bounds = (low, high)
        log_tau = torch.full((1,), math.log(tau), dtype=torch.float32)
        if learnable:
            self.log_tau = nn.Parameter(log_tau)
        else:
            self.register_buffer("log_tau", log_tau)

    @property
    def tau(self) -> Tensor:
        """The temperature in force, a detached 0-dim tensor; in the loss's ``last_stats`` as "tau".

        It can be set to a number within the bounds, or to a 0-dim tensor, whose value is not looked at (no host sync)
        and is clamped to the bounds.
        """
        return self._options()["tau"].detach()

    @tau.setter
    def tau(self, tau: float | Tensor) -> None:
        low, high = self.bounds
        if not (isinstance(tau, Tensor) and tau.ndim == 0):
            check_positive("tau", tau)
            if not low <= tau <= high:
                raise ValueError(f"tau: expected a number in [{low!r}, {high!r}], got {tau!r}")
            tau = torch.tensor(tau, dtype=torch.float64)
        with torch.no_grad():
            self.log_tau.copy_(tau.clamp(low, high).log())

    def extra_repr(self) -> str:
        """Show every option."""
        return f"{self.strategy!r}, tau={float(self.tau):.4g}, learnable={self.learnable}, bounds={self.bounds}"

    def _options(self) -> dict[str, Tensor]:
        low, high = self.bounds
        return {"tau": self.log_tau[0].exp().clamp(low, high)}

    def _slopes(self, energy: Tensor, excess: Tensor) -> list[tuple[Tensor, Tensor]]:
        low, high = (math.log(bound) for bound in self.bounds)
        return [(Bounded.apply(self.log_tau, low, high)[0], energy / self.tau)]


def has_temperature(strategy: object) -> bool:
    """Whether a strategy is a dataclass with a field ``tau``."""
    if isinstance(strategy, type) or not dataclasses.is_dataclass(strategy):
        return False
    return any(field.name == "tau" for field in dataclasses.fields(strategy))


def check_can_learn(argument: str, strategy: Any) -> None:
    """Raise, in the name of a boolean argument, unless the strategy has a temperature that can learn."""
    if not has_temperature(strategy):
        raise ValueError(f"{argument}: expected False with {strategy!r}, which has no temperature")
    if not getattr(strategy, "has_loss", False):
        raise ValueError(
            f"{argument}: expected False with {strategy!r}, which has no loss of its own from which τ could learn; "
            "LearnableTemperature(strategy, learnable=False) can follow a schedule"
        )
