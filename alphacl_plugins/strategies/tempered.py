"""A temperature τ that learns, or follows a schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphacl_plugins._checks import check_bool, check_positive
from alphacl_plugins.strategies.base import Candidates, PairWeights, Strategy, split_excluded
from alphacl_plugins.strategies.factored import Exponent, Factored, Factors, Totals


class Tempered(nn.Module):
    """A strategy whose temperature τ is a parameter, ``log_tau``, or a buffer that a schedule sets.

    τ is the unit in which a strategy measures distances, ``α(D; τ) = α(D / τ; 1)`` (for Direct ``τ^(2/p)``), so α
    follows it without a host sync. No gradient passes through α; where does τ get one from? From the loss ``L/τ``, in
    its usual scale (InfoNCE: NT-Xent), whose derivative is the energy itself:

    ``∂(L/τ) / ∂ log τ = E_i / τ``, ``E_i = Σ_j α_ij D_ij - α_i+ D_i+``,

    by Theorem 1 and, for the regularised strategies, Danskin's theorem. So τ falls while the weighted candidates are
    further away than the positive, and rises where they are closer; once every positive is closer than every candidate
    only the lower bound stops it, though InfoNCE's weights, and so its steps, become small by then. (L itself would not
    do: for InfoNCE ``∂L/∂τ`` is an entropy, never negative, so that τ could only fall.)

    The parameter belongs to the loss: give ``criterion.parameters()`` to the optimiser, without weight decay. Under
    DDP the loss has to be inside the wrapped module (Lightning: an attribute of the LightningModule).

    Args:
        strategy: one with a temperature: InfoNCE, Entropy, Inverse, Square, Direct, DHEL, SoftTriplet. Its tau is
            where ``log_tau``, in float32, starts.
        learnable: False: τ stays as it is, or as ``strategy.tau = 0.2`` sets it, at any time. True needs a strategy
            with a loss L of its own, which Direct and Inverse(exact=False), set directly, do not have.
        bounds: least and largest τ; at a bound, the gradient of a batch that leads beyond it is 0.

    Attributes:
        tau: the temperature in force, a detached scalar tensor; settable. In the loss's ``last_stats`` as "tau".

    Shape: ``d2_pos [M]``, ``d2_neg [M, K]`` (+inf where excluded) -> weights ``[M, K]``, as the strategy's.
    Raises: TypeError, ValueError if the strategy has no temperature, or none that can learn, or a number is outside its
        range.
    Source: Theorem 1 of Tian (2022), arXiv:2201.12680; a learnable τ: Radford et al. (2021), CLIP.

    >>> from alphacl_plugins.strategies import InfoNCE
    >>> strategy = Tempered(InfoNCE(tau=0.1))
    >>> strategy.tau = 0.2
    >>> strategy.tau
    tensor(0.2000)
    """

    log_tau: Tensor

    def __init__(self, strategy: Strategy, *, learnable: bool = True, bounds: Sequence[float] = (0.01, 100.0)) -> None:
        super().__init__()
        tau = _temperature_of(strategy)
        check_bool("learnable", learnable)
        if learnable and not strategy.has_loss:  # type: ignore[attr-defined]  # beside tau_power
            raise ValueError(
                f"learnable: expected False with {strategy!r}, whose α is set directly: there is no loss from which τ "
                "could learn; Tempered(strategy, learnable=False) can follow a schedule"
            )
        low, high = _checked_bounds(bounds)
        if not low <= tau <= high:
            raise ValueError(
                f"bounds: expected (least, largest) around the strategy's tau {tau!r}, got ({low!r}, {high!r}); "
                "others go to Tempered(strategy, bounds=...)"
            )
        self.at_one: Any = dataclasses.replace(strategy, tau=1.0)  # type: ignore[type-var]
        self.learnable = learnable
        self.bounds = (low, high)
        log_tau = torch.tensor(math.log(tau))
        if learnable:
            self.log_tau = nn.Parameter(log_tau)
        else:
            self.register_buffer("log_tau", log_tau)

    @property
    def tau(self) -> Tensor:
        """The temperature in force."""
        return self._tau().detach()

    @tau.setter
    def tau(self, tau: float) -> None:
        check_positive("tau", tau)
        low, high = self.bounds
        if not low <= tau <= high:
            raise ValueError(f"tau: expected a number in [{low!r}, {high!r}], got {tau!r}")
        with torch.no_grad():
            self.log_tau.fill_(math.log(tau))

    @property
    def negatives(self) -> str | None:
        """What the strategy declares."""
        return getattr(self.at_one, "negatives", None)

    @property
    def symmetric(self) -> bool | None:
        """What the strategy declares."""
        return getattr(self.at_one, "symmetric", None)

    @property
    def linear_in_positive(self) -> bool:
        """What the strategy declares."""
        return getattr(self.at_one, "linear_in_positive", False)

    @property
    def factored(self) -> Factored | None:
        """The strategy at this temperature as one whose weights factor, if it is one; its value lets no τ learn."""
        inner: Factored | None = self.at_one.factored if hasattr(self.at_one, "factored") else None
        return None if inner is None else _Scaled(inner, self.tau, self._unit(self.tau))

    def forward(self, d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        """Weigh candidates at ``d2_neg`` against a positive at ``d2_pos``."""
        candidates, unit = split_excluded(d2_neg), self._unit(self._tau()).to(d2_neg.dtype)
        neg, pos, value = self.at_one(d2_pos / unit, _in_units(candidates, unit))
        pos = neg.sum(dim=1) if pos is None else pos
        return self._complete(neg, pos, value, (neg * candidates.d2).sum(dim=1) - pos * d2_pos)

    @property
    def average(self) -> Any:
        """The mean over several positives in closed form, if the strategy has one."""
        return self._average if hasattr(self.at_one, "average") else None

    def learn_from(self, value: Tensor, energy: Tensor) -> Tensor:
        """Return the value, with gradient ``E / τ`` for log τ. Shape: ``[M]``, ``[M]`` -> ``[M]``."""
        slope = energy.detach() / self.tau.to(energy.dtype)
        low, high = (math.log(bound) for bound in self.bounds)
        log_tau: Tensor = _Bounded.apply(self.log_tau, low, high)
        return value.detach() + slope * (log_tau - log_tau.detach())

    def extra_repr(self) -> str:
        """Show every option."""
        return (
            f"{self.at_one!r} in units of tau={float(self.tau):.4g}, learnable={self.learnable}, bounds={self.bounds}"
        )

    def _average(self, d2_pos: Tensor, share: Tensor, d2_neg: Tensor) -> PairWeights:
        candidates, unit = split_excluded(d2_neg), self._unit(self._tau()).to(d2_neg.dtype)
        neg, pos, value = self.at_one.average(d2_pos / unit, share, _in_units(candidates, unit))
        return self._complete(neg, pos, value, (neg * candidates.d2).sum(dim=1) - (pos * d2_pos).sum(dim=1))

    def _complete(self, neg: Tensor, pos: Tensor, value: Tensor | None, energy: Tensor) -> PairWeights:
        value = None if value is None else self.tau.to(value.dtype) * value
        if self.learnable:
            value = self.learn_from(-energy if value is None else value, energy)
        return PairWeights(neg, pos, value)

    def _tau(self) -> Tensor:
        low, high = self.bounds
        return self.log_tau.exp().clamp(low, high)

    def _unit(self, tau: Tensor) -> Tensor:
        return tau.pow(self.at_one.tau_power)


class _Bounded(torch.autograd.Function):
    """The identity; backward, no gradient whose descent leads out of the bounds, once all anchors have added theirs."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_tau: Tensor, low: float, high: float) -> Tensor:
        return log_tau.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        log_tau, ctx.low, ctx.high = inputs
        ctx.save_for_backward(log_tau)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (log_tau,), (slope,) = ctx.saved_tensors, gradients
        outward = ((log_tau <= ctx.low) & (slope > 0)) | ((log_tau >= ctx.high) & (slope < 0))
        return slope.masked_fill(outward, 0.0), None, None


class _Scaled(Factored):
    """A factored strategy at τ = 1 that is given distances in units of τ."""

    def __init__(self, strategy: Factored, tau: Tensor, unit: Tensor) -> None:
        self._strategy, self._tau, self._unit = strategy, tau, unit

    @property
    def exponent(self) -> Exponent | None:
        """How w falls with D."""
        inner = self._strategy.exponent
        return None if inner is None else Exponent(self._unit.pow(inner.power) * inner.tau, inner.power)

    def log_weight(self, d2: Tensor) -> Tensor:
        """Return ``log w(D)``."""
        return self._strategy.log_weight(d2 / self._unit)

    def potential(self, d2: Tensor) -> Tensor | None:
        """Return u(D)."""
        return self._strategy.potential(d2 / self._unit)

    def factors(self, d2_pos: Tensor, totals: Totals) -> Factors:
        """Return mass, positive weight and value."""
        mass, pos, value = self._strategy.factors(d2_pos / self._unit, totals)
        return Factors(mass, pos, None if value is None else self._tau * value)


def _in_units(candidates: Candidates, unit: Tensor) -> Tensor:
    """Distances over the unit; the excluded ones, +inf, keep out of its gradient."""
    return (candidates.d2 / unit).masked_fill(candidates.excluded, math.inf)


def _temperature_of(strategy: Any) -> float:
    if isinstance(strategy, type) or not hasattr(strategy, "tau_power"):
        names = "InfoNCE, Entropy, Inverse, Square, Direct, DHEL, SoftTriplet"
        raise TypeError(f"strategy: expected one with a temperature ({names}), got {strategy!r}")
    tau: float = strategy.tau
    return tau


def _checked_bounds(bounds: Any) -> tuple[float, float]:
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        raise TypeError(f"bounds: expected (least, largest) τ, got {bounds!r}")
    low, high = bounds
    check_positive("bounds[0]", low)
    check_positive("bounds[1]", high)
    if low >= high:
        raise ValueError(f"bounds: expected (least, largest) τ, got {tuple(bounds)!r}")
    return float(low), float(high)
